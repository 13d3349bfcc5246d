//! Damaged requests by the thousand: whatever arrives, the server answers, with a reason, and no thread of it panics.
//!
//! A few hundred requests each, always the same. For a longer hunt, with a seed of its own:
//! `APTVIT_FUZZ_SECONDS=600 APTVIT_FUZZ_SEED=7 cargo test --release --workspace --test fuzz -- --nocapture --test-threads 6`.
#![allow(clippy::unwrap_used, missing_docs)]

mod hunt;
mod mutate;
mod seeds;
#[path = "../../src/testing.rs"]
mod testing;

use axum::body::Body;
use axum::http::Request;
use axum::http::header::CONTENT_TYPE;
use hunt::hunt;

/// The parts of a request that are damaged.
pub type Case = Vec<Vec<u8>>;

fn post(path: &str, kind: &[u8], body: Vec<u8>) -> Option<Request<Body>> {
    let request = Request::post(path).header(CONTENT_TYPE, kind);
    request.body(Body::from(body)).ok()
}

#[test]
fn damaged_json_of_the_open_inference_protocol_is_answered() {
    hunt("v2-json", seeds::v2_json(), |case| {
        post(
            "/v2/models/v2-json/infer",
            b"application/json",
            case.concat(),
        )
    });
}

#[test]
fn damaged_binary_tensors_are_answered() {
    hunt("v2-binary", seeds::v2_binary(), |case| {
        let [head, tensors, said] = case else {
            return None;
        };
        let length = match said.as_slice() {
            [] => head.len().to_string().into_bytes(),
            said => said.to_vec(),
        };
        Request::post("/v2/models/v2-binary/infer")
            .header("Inference-Header-Content-Length", length)
            .body(Body::from([head.as_slice(), tensors].concat()))
            .ok()
    });
}

#[test]
fn damaged_forms_of_several_parts_are_answered() {
    hunt("multipart", seeds::multipart(), |case| {
        let (kind, body) = case.split_first()?;
        post("/v1/models/multipart/classify", kind, body.concat())
    });
}

#[test]
fn damaged_base64_in_json_is_answered() {
    hunt("base64", seeds::base64(), |case| {
        post(
            "/v1/models/base64/embed",
            b"application/json",
            case.concat(),
        )
    });
}

#[test]
fn damaged_pictures_are_answered() {
    hunt("picture", seeds::pictures(), |case| {
        post(
            "/v1/models/picture/classify?explain=true",
            b"application/octet-stream",
            case.concat(),
        )
    });
}

#[test]
fn damaged_options_are_answered() {
    hunt("options", seeds::options(), |case| {
        let query = String::from_utf8(case.concat()).ok()?;
        if asks_for_less_than_a_second(&query) {
            return None;
        }
        let path = format!("/v1/models/options/classify?{query}");
        post(&path, b"image/png", testing::png(9, 8))
    });
}

/// Such a request may be answered with 503, and rightly so. One that asks for no time at all may not.
fn asks_for_less_than_a_second(query: &str) -> bool {
    let times = query
        .split('&')
        .filter_map(|option| option.strip_prefix("timeout_ms="));
    let mut times = times.filter_map(|time| time.parse::<u64>().ok());
    times.any(|time| (1..1000).contains(&time))
}
