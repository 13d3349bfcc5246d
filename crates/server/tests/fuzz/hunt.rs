//! One hunt: damaged requests against a server of its own, from those that were answered in a new way.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use apt_server::{Service, Settings, router};
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::Case;
use crate::mutate::damage;
use crate::testing::tiny_model;

/// Damaged requests where no time is set.
const STEPS: u64 = 300;
/// Cases from which damage goes on, at most.
const CASES: usize = 4000;
/// Pixels of a picture, at most.
const PIXELS: u64 = 1_000_000;
/// What a request may be answered with. 500 is a fault of the server, and 503 is a request that hangs.
const FINE: [u16; 6] = [200, 400, 404, 413, 415, 422];
/// Resident memory of the process, at most, in KiB.
const MEMORY: u64 = 4 << 20;

/// Panics of the server's threads, of which it says no more than a refusal.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Sends `seeds` as they are and damaged, by `request`, to the model `name`.
pub fn hunt(name: &str, seeds: Vec<Case>, request: fn(&[Vec<u8>]) -> Option<Request<Body>>) {
    watch_panics();
    let number = |key: &str| {
        std::env::var(key)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seed = number("APTVIT_FUZZ_SEED").unwrap_or(1);
    let time = number("APTVIT_FUZZ_SECONDS").map(Duration::from_secs);
    let mut settings = Settings::default();
    settings.limits.pixels = PIXELS;
    settings.limits.deadline = Duration::from_secs(60);
    let service = Service::new(vec![(name.into(), tiny_model())], settings).unwrap();
    let answers = TowerToHyperService::new(router(service));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let started = Instant::now();
    let (mut cases, mut kinds, mut statuses) = (seeds.clone(), HashSet::new(), BTreeMap::new());
    let mut step = 0;
    while time.map_or(step < STEPS, |time| started.elapsed() < time) {
        let sound = seeds.get(step as usize);
        let case = sound.cloned().unwrap_or_else(|| {
            let mut case = cases[rng.random_range(0..cases.len())].clone();
            damage(&mut case, &cases, &mut rng);
            case
        });
        step += 1;
        let Some(request) = request(&case) else {
            continue;
        };
        let (status, body) = runtime.block_on(async {
            let response = answers.call(request).await.unwrap();
            let status = response.status().as_u16();
            (
                status,
                response.into_body().collect().await.unwrap().to_bytes(),
            )
        });
        let fault = fault(name, status, &body, sound.is_some());
        assert!(
            fault.is_none(),
            "{name}, seed {seed}, request {step}: {}; its parts are in {}",
            fault.unwrap_or_default(),
            save(name, &case)
        );
        *statuses.entry(status).or_insert(0u64) += 1;
        if kinds.insert(kind(status, &body)) && cases.len() < CASES {
            cases.push(case);
        }
    }
    println!(
        "{name}: {step} requests in {:.0} s, {} kinds of answers, by status {statuses:?}",
        started.elapsed().as_secs_f64(),
        kinds.len()
    );
}

/// What is wrong with an answer, if anything is.
fn fault(name: &str, status: u16, body: &[u8], is_sound: bool) -> Option<String> {
    let mut panics = PANICS.lock().unwrap();
    if let Some(place) = panics.iter().position(|panic| panic.contains(name)) {
        return Some(panics.remove(place));
    }
    let text = String::from_utf8_lossy(body);
    if !FINE.contains(&status) || (is_sound && status != 200) {
        return Some(format!("status {status}: {text}"));
    }
    if status != 200 {
        let reason: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let reason = reason.and_then(|reason| Some(!reason["error"].as_str()?.is_empty()));
        if reason != Some(true) {
            return Some(format!("status {status} without a reason: {text}"));
        }
    }
    let memory = memory().filter(|&memory| memory > MEMORY);
    memory.map(|memory| format!("{memory} KiB of memory"))
}

/// Answers that differ in more than numbers.
fn kind(status: u16, body: &[u8]) -> (u16, Vec<u8>) {
    let letters = body.iter().copied().filter(|byte| !byte.is_ascii_digit());
    let length = if status == 200 { 40 } else { 100 };
    (status, letters.take(length).collect())
}

/// Resident memory of this process in KiB, where the system says it.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn save(name: &str, case: &Case) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    for (place, part) in case.iter().enumerate() {
        std::fs::write(folder.join(place.to_string()), part).unwrap();
    }
    folder.display().to_string()
}

/// Keeps what threads of engines say as they panic: `prepare` and `compute`, and the model's name.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let thread = thread.name().unwrap_or_default();
            if thread.starts_with("prepare ") || thread.starts_with("compute ") {
                PANICS.lock().unwrap().push(format!("{thread}: {panic}"));
            }
            usual(panic);
        }));
    });
}
