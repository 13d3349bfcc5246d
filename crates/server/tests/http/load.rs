//! The budget follows the load, and the end loses nothing.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::testing::{large_png, png};
use crate::common::{Running, receive, start};
use apt_server::{Input, Priority, Settings, Task, Usual, Wish};

fn elastic(target: Duration) -> Settings {
    let mut settings = Settings::default();
    settings.engine.usual = Usual::Elastic {
        most: 1.0,
        least: 0.6,
    };
    settings.engine.target_latency = target;
    settings.engine.most_wait = Duration::from_secs(600);
    settings.engine.batch = 8.0;
    settings.limits.requests = 10_000;
    settings.limits.deadline = Duration::from_secs(120);
    settings
}

fn share(server: &Running, priority: &str) -> f64 {
    server.get("/v1/load").json()[0]["shares"][priority]
        .as_f64()
        .unwrap()
}

/// So many clients that each send so many pictures; all answers are there.
fn load(server: &Arc<Running>, clients: usize, pictures: usize, options: &'static str) -> Vec<f64> {
    let threads = (0..clients).map(|client| {
        let server = Arc::clone(server);
        std::thread::spawn(move || {
            let mut shares = Vec::new();
            for picture in 0..pictures {
                let answer =
                    server.classify(options, &png(30 + client as u32, 30 + picture as u32));
                assert_eq!(answer.status, 200, "{}", answer.text());
                shares.push(answer.json()["results"][0]["budget"].as_f64().unwrap());
            }
            shares
        })
    });
    let threads: Vec<_> = threads.collect();
    threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect()
}

#[test]
fn under_load_images_get_less_compute_and_afterwards_all_of_it_again() {
    let server = Arc::new(start(elastic(Duration::from_millis(2))));
    assert_eq!(share(&server, "normal"), 1.0);
    let shares = load(&server, 40, 10, "");
    let least = shares.iter().copied().fold(1.0, f64::min);
    assert_eq!(least, 0.6);
    assert!(shares.iter().all(|share| (0.6..=1.0).contains(share)));
    let calm = Instant::now();
    while share(&server, "normal") < 1.0 {
        assert!(calm.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(50));
    }
    let answer = server.classify("", &png(40, 40)).json();
    assert_eq!(answer["results"][0]["budget"], 1.0);
}

#[test]
fn a_share_in_the_request_is_kept_to_under_load() {
    let server = Arc::new(start(elastic(Duration::from_millis(2))));
    let busy = Arc::clone(&server);
    let busy = std::thread::spawn(move || load(&busy, 20, 10, ""));
    let shares = load(&server, 4, 5, "?flops=0.9");
    assert!(shares.iter().all(|&share| share == 0.9));
    busy.join().unwrap();
}

/// So many clients that each sent a picture which takes long to decode, all of them taken in.
fn waiting_clients(server: &Running, count: usize) -> Vec<TcpStream> {
    let body = large_png(4800, 5000);
    let length = body.len();
    let head = format!(
        "POST /v1/models/tiny/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    );
    let clients = (0..count).map(|_| {
        let mut stream = server.connect();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        stream
    });
    let clients = clients.collect();
    wait_until(|| metric(server, "aptvit_accepted_total") == count as f64);
    clients
}

/// What the server counts under `name`, of its one model.
fn metric(server: &Running, name: &str) -> f64 {
    let text = server.get("/metrics").text();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or(0.0)
}

fn wait_until(mut reached: impl FnMut() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_client_that_goes_away_is_not_computed_for() {
    let server = start(elastic(Duration::from_secs(100)));
    drop(waiting_clients(&server, 40));
    let cancelled = || metric(&server, "aptvit_cancelled_total");
    let computed = || metric(&server, "aptvit_images_total");
    wait_until(|| cancelled() + computed() == 40.0);
    let (cancelled, computed) = (cancelled(), computed());
    assert!(
        cancelled > computed,
        "{cancelled} cancelled, {computed} computed"
    );
    assert_eq!(server.classify("", &png(40, 40)).status, 200);
}

#[test]
fn who_comes_after_clients_that_went_away_is_answered() {
    let mut settings = elastic(Duration::from_millis(2));
    settings.engine.batch = 1.0;
    let server = start(settings);
    let engine = &server.service.engines()["tiny"];
    let wish = || Wish {
        task: Task::Classify,
        budget: None,
        priority: Priority::Normal,
        deadline: Instant::now() + Duration::from_secs(60),
    };
    let pictures = |count| vec![Input::Picture(png(40, 40).into()); count];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for round in 0..100 {
        let gone = engine.submit(pictures(12), &wish()).unwrap();
        // Some are computed, some are decoded, some wait.
        std::thread::sleep(Duration::from_micros(200 * (round % 30)));
        drop(gone);
        let receivers = engine.submit(pictures(3), &wish()).unwrap();
        runtime.block_on(async {
            for receiver in receivers {
                let reply = tokio::time::timeout(Duration::from_secs(60), receiver).await;
                reply.unwrap().unwrap().unwrap();
            }
        });
    }
}

#[test]
fn images_of_different_budgets_share_a_batch_and_each_gets_its_own() {
    let server = start(elastic(Duration::from_secs(100)));
    let engine = &server.service.engines()["tiny"];
    let size = engine.model().description().model.image_size;
    let values = vec![0.5; 3 * size.height * size.width];
    let shares = [1.0, 0.7];
    let receivers: Vec<_> = (0..400)
        .map(|image| {
            let wish = Wish {
                task: Task::Classify,
                budget: Some(engine.budget(shares[image % 2]).unwrap()),
                priority: Priority::Normal,
                deadline: Instant::now() + Duration::from_secs(60),
            };
            let input = vec![Input::Values(values.clone())];
            engine.submit(input, &wish).unwrap().remove(0)
        })
        .collect();
    let replies = receivers.into_iter().map(|receiver| {
        let reply = receiver.blocking_recv();
        reply.unwrap().unwrap()
    });
    let replies: Vec<_> = replies.collect();
    for (image, reply) in replies.iter().enumerate() {
        let (asked, computed) = (shares[image % 2], reply.reduced.flops_share);
        assert_eq!(reply.share, Some(asked));
        assert!(computed <= asked && computed > asked - 0.05, "{computed}");
        // One picture, so that whoever has the same budget has the same answer.
        for (value, first) in reply.values.iter().zip(&replies[image % 2].values) {
            assert!((value - first).abs() < 1e-3, "{value} {first}");
        }
    }
    // A batch costs 8 dense images: no more than 5 of each budget, were they apart.
    let largest = replies.iter().map(|reply| reply.batch).max().unwrap();
    let mixes = apt_vit_model::fused::computes_here(&engine.model().device());
    assert!(!mixes || largest > 5, "{largest} images at once");
}

#[test]
fn the_end_answers_what_was_taken_in_and_takes_nothing_more() {
    let mut server = start(elastic(Duration::from_secs(100)));
    let mut clients = waiting_clients(&server, 30);
    server.stop();
    std::thread::sleep(Duration::from_millis(200));
    assert!(!server.service.is_ready());
    assert!(TcpStream::connect(server.address).is_err());
    let statuses: Vec<u16> = clients
        .iter_mut()
        .map(|client| receive(client).status)
        .collect();
    assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
    assert_eq!(server.end(), 0);
}

#[test]
fn who_is_first_is_served_first_and_at_more_compute() {
    let server = Arc::new(start(elastic(Duration::from_millis(20))));
    let busy = Arc::clone(&server);
    let busy = std::thread::spawn(move || load(&busy, 40, 10, "?priority=low"));
    std::thread::sleep(Duration::from_millis(150));
    let high = load(&server, 1, 10, "?priority=high");
    let low = busy.join().unwrap();
    let mean = |shares: &[f64]| shares.iter().sum::<f64>() / shares.len() as f64;
    assert!(mean(&high) > mean(&low), "{} {}", mean(&high), mean(&low));
}
