//! What the server refuses, with which status, and what it does with clients that misbehave.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::common::testing::{crc, picture, png};
use crate::common::{Answer, receive, start, usual};
use apt_server::{ApiKey, Settings};
use image::ImageFormat;
use serde_json::json;

/// Refused with this status, and with a reason in JSON.
fn refused(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{} {}", answer.head, answer.text());
    answer.json()["error"].as_str().unwrap().to_string()
}

/// A PNG whose header claims to be so large.
fn bomb(side: u32) -> Vec<u8> {
    let mut bytes = png(8, 8);
    bytes[16..20].copy_from_slice(&side.to_be_bytes());
    bytes[20..24].copy_from_slice(&side.to_be_bytes());
    let checksum = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

#[test]
fn each_fault_has_its_status_and_its_reason() {
    let mut settings = Settings::default();
    settings.limits.body = 200_000;
    settings.limits.pixels = 10_000;
    settings.limits.images = 2;
    let server = start(settings);
    let sound = png(40, 40);
    for (options, body, status, word) in [
        ("", &b"hello"[..], 415, "JPEG, PNG or WebP"),
        ("", b"", 415, "empty"),
        ("", b"GIF89a\x01\0\x01\0\0\0\0;", 415, "Gif"),
        ("", &vec![0; 200_001], 413, "200000 bytes"),
        ("", &png(101, 100), 413, "101 x 100"),
        ("", &bomb(60_000), 413, "60000 x 60000"),
        ("", &sound[..sound.len() / 2], 422, "picture"),
        (
            "",
            &picture(40, 40, ImageFormat::Jpeg)[..300],
            422,
            "picture",
        ),
        ("?flops=0", &sound, 422, "flops = 0"),
        ("?flops=NaN", &sound, 422, "flops = NaN"),
        ("?flops=0.01", &sound, 422, "0.01"),
        ("?flop=0.5", &sound, 422, "flop"),
        ("?priority=now", &sound, 422, "now"),
    ] {
        let reason = refused(&server.classify(options, body), status);
        assert!(reason.contains(word), "{options} {word}: {reason}");
    }
    let reason = refused(
        &server.post("/v1/models/other/classify", "image/png", &sound),
        404,
    );
    assert!(
        reason.contains("`other`") && reason.contains("tiny"),
        "{reason}"
    );
    refused(&server.get("/nothing"), 404);
    refused(&server.get("/v1/models/tiny/classify"), 405);
    refused(&server.get("/v2/models/tiny/versions/2"), 404);
    refused(
        &server.post("/v1/models/tiny/classify", "text/plain", &sound),
        415,
    );
    let packed = [("Content-Encoding", "gzip")];
    refused(
        &server.send("POST", "/v1/models/tiny/classify", &packed, &sound),
        415,
    );
    let many = json!({ "images": ["YQ==", "YQ==", "YQ=="] }).to_string();
    refused(
        &server.post(
            "/v1/models/tiny/classify",
            "application/json",
            many.as_bytes(),
        ),
        413,
    );
    refused(
        &server.post("/v2/models/tiny/infer", "application/json", b"{}"),
        400,
    );
    let values = json!(vec![3e38; 3 * 32 * 32]);
    let input =
        json!({ "name": "pixels", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": values });
    let body = json!({ "inputs": [input] }).to_string();
    let answer = server.post("/v2/models/tiny/infer", "application/json", body.as_bytes());
    assert!(refused(&answer, 422).contains("finite"));
    // Afterwards it answers as before.
    assert_eq!(server.classify("", &sound).status, 200);
}

#[test]
fn without_the_secret_nothing_but_health_and_the_page_is_answered() {
    let settings = Settings {
        key: Some(ApiKey::new("secret")),
        ..Settings::default()
    };
    let server = start(settings);
    let paths = [
        "/v1/models",
        "/v1/load",
        "/metrics",
        "/v2",
        "/v2/models/tiny",
    ];
    for header in [
        None,
        Some("Bearer wrong"),
        Some("Bearer secre"),
        Some("secret"),
        Some("Basic secret"),
    ] {
        let headers: Vec<(&str, &str)> = header
            .map(|value| ("Authorization", value))
            .into_iter()
            .collect();
        for path in paths {
            let answer = server.send("GET", path, &headers, b"");
            refused(&answer, 401);
            assert_eq!(answer.header("WWW-Authenticate").as_deref(), Some("Bearer"));
        }
        let answer = server.send("POST", "/v1/models/tiny/classify", &headers, &png(8, 8));
        refused(&answer, 401);
    }
    for path in paths {
        assert_eq!(
            server
                .send("GET", path, &[("Authorization", "Bearer secret")], b"")
                .status,
            200
        );
    }
    for path in ["/health", "/v2/health/ready", "/", "/openapi.json"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
}

#[test]
fn other_origins_are_let_in_only_where_they_are_named() {
    let ask = |origins: Vec<String>| {
        let settings = Settings {
            origins,
            ..Settings::default()
        };
        let headers = [("Origin", "https://a.example")];
        let answer = start(settings).send("GET", "/v1/models", &headers, b"");
        answer.header("Access-Control-Allow-Origin")
    };
    assert_eq!(ask(Vec::new()), None);
    assert_eq!(
        ask(vec!["https://a.example".into()]).as_deref(),
        Some("https://a.example")
    );
    assert_eq!(ask(vec!["https://b.example".into()]), None);
}

#[test]
fn a_full_queue_and_too_many_requests_are_told_when_to_come_again() {
    let mut settings = Settings::default();
    settings.limits.requests = 0;
    let answer = start(settings).classify("", &png(8, 8));
    assert!(refused(&answer, 429).contains("limit"));
    assert!(
        answer
            .header("Retry-After")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );

    let mut settings = Settings::default();
    settings.engine.most_wait = Duration::ZERO;
    settings.limits.images = 500;
    let server = start(settings);
    let images = vec![png(8, 8); 3]
        .iter()
        .map(|bytes| to_base64(bytes))
        .collect::<Vec<_>>();
    let body = json!({ "images": images }).to_string();
    let answer = server.post(
        "/v1/models/tiny/classify",
        "application/json",
        body.as_bytes(),
    );
    assert!(refused(&answer, 429).contains("queue"));
    assert!(answer.header("Retry-After").is_some());
    assert!(
        server
            .get("/metrics")
            .text()
            .contains("aptvit_refused_total{model=\"tiny\"} 3")
    );
}

fn to_base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn a_deadline_that_passes_is_answered_with_503() {
    let mut settings = Settings::default();
    settings.limits.deadline = Duration::ZERO;
    let server = start(settings);
    let answer = server.classify("", &png(40, 40));
    refused(&answer, 503);
    assert!(answer.header("Retry-After").is_some());
}

#[test]
fn no_time_at_all_is_refused() {
    let answer = usual().classify("?timeout_ms=0", &png(40, 40));
    assert!(refused(&answer, 422).contains("timeout_ms"));
}

#[test]
fn slow_heads_and_slow_bodies_are_cut_and_do_not_hold_up_others() {
    let mut settings = Settings::default();
    settings.limits.head = Duration::from_millis(500);
    settings.limits.body_time = Duration::from_millis(700);
    let server = start(settings);
    let started = Instant::now();
    let mut heads: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for head in &mut heads {
        head.write_all(b"POST /v1/models/tiny/classify HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            .unwrap();
    }
    let mut body = server.connect();
    body.write_all(
        b"POST /v1/models/tiny/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc",
    )
    .unwrap();
    assert_eq!(server.classify("", &png(40, 40)).status, 200);
    let answer = receive(&mut body);
    assert_eq!(answer.status, 408, "{}", answer.text());
    for mut head in heads {
        // Closed, or told so first.
        let mut rest = Vec::new();
        let _ = head.read_to_end(&mut rest);
    }
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn one_connection_too_many_is_told_so() {
    let mut settings = Settings::default();
    settings.limits.connections = 3;
    let server = start(settings);
    let held: Vec<_> = (0..3).map(|_| server.connect()).collect();
    std::thread::sleep(Duration::from_millis(200));
    let answer = server.get("/health");
    refused(&answer, 503);
    assert_eq!(answer.header("Retry-After").as_deref(), Some("1"));
    drop(held);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn garbage_costs_nothing_but_its_own_connection() {
    let server = usual();
    for garbage in [
        &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/models/tiny/classify HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/models/tiny/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut stream = server.connect();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let answer = receive(&mut stream);
        assert!(answer.status == 0 || (400..=505).contains(&answer.status), "{}", answer.head);
    }
    let mut long = server.connect();
    let _ = long.write_all(format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)).as_bytes());
    let answer = receive(&mut long);
    assert!(
        [0, 400, 414, 431].contains(&answer.status),
        "{}",
        answer.head
    );
    assert_eq!(server.classify("", &png(40, 40)).status, 200);
}
