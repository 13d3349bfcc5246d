//! What the server answers to sound requests.

use crate::common::testing::{picture, png, tiny_model};
use crate::common::{start, start_model, usual};
use apt_inference::Model;
use apt_server::{Settings, Usual};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use burn::tensor::Device;
use image::ImageFormat;
use serde_json::{Value, json};

#[test]
fn jpeg_png_and_webp_are_classified_as_the_model_does() {
    let server = usual();
    let model = tiny_model();
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
        let bytes = picture(48, 40, format);
        let answer = server.classify("?top=3", &bytes);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let found = &answer.json()["results"][0];
        let image = apt_data::RgbImage::from_bytes(&bytes, "x").unwrap();
        let expected = model.classify(&[image], 3).remove(0).unwrap();
        for (found, expected) in found["classes"]
            .as_array()
            .unwrap()
            .iter()
            .zip(&expected.classes)
        {
            assert_eq!(found["class"], expected.class);
            let probability = found["probability"].as_f64().unwrap();
            assert!((probability - f64::from(expected.probability)).abs() < 1e-5);
        }
        assert_eq!(found["classes"].as_array().unwrap().len(), 3);
        assert_eq!(
            (found["budget"].as_f64(), found["flops_share"].as_f64()),
            (Some(1.0), Some(1.0))
        );
    }
}

#[test]
fn a_share_in_the_request_is_kept_to_and_named() {
    let server = usual();
    let answer = server
        .classify("?flops=0.6&explain=true", &png(48, 40))
        .json();
    let found = &answer["results"][0];
    assert_eq!(found["budget"], 0.6);
    let share = found["flops_share"].as_f64().unwrap();
    assert!(share <= 0.6 && share > 0.55, "{share}");
    let layers = found["layers"].as_array().unwrap();
    let tokens: Vec<u64> = layers
        .iter()
        .map(|layer| layer["tokens"].as_u64().unwrap())
        .collect();
    assert!(
        tokens.windows(2).all(|pair| pair[1] < pair[0]) && tokens[0] < 65,
        "{tokens:?}"
    );
    assert_eq!(found["grid"], json!([8, 8]));
    assert_eq!(found["seen"]["width"], 48);
    // As many groups of patches as tokens but CLS.
    let last = layers.last().unwrap();
    let patches = last["patches"].as_array().unwrap();
    let kept = patches
        .iter()
        .enumerate()
        .filter(|(place, token)| token.as_u64() == Some(*place as u64));
    assert_eq!(kept.count() as u64 + 1, *tokens.last().unwrap());
    assert!(found["time"]["compute_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn images_of_one_request_come_back_in_their_order() {
    let server = usual();
    let pictures = [png(40, 40), png(64, 20), png(33, 50)];
    let alone: Vec<Value> = pictures
        .iter()
        .map(|picture| server.classify("", picture).json()["results"][0]["classes"].clone())
        .collect();
    let texts: Vec<String> = pictures
        .iter()
        .map(|picture| STANDARD.encode(picture))
        .collect();
    let body = json!({ "images": texts }).to_string();
    let together = server
        .post(
            "/v1/models/tiny/classify",
            "application/json",
            body.as_bytes(),
        )
        .json();
    let mut parts = Vec::new();
    for picture in &pictures {
        parts.extend(b"--B\r\nContent-Disposition: form-data; name=\"x\"; filename=\"x\"\r\n\r\n");
        parts.extend(picture);
        parts.extend(b"\r\n");
    }
    parts.extend(b"--B--\r\n");
    let kind = "multipart/form-data; boundary=B";
    let in_parts = server.post("/v1/models/tiny/classify", kind, &parts).json();
    for (place, alone) in alone.iter().enumerate() {
        for found in [&together, &in_parts] {
            let classes = &found["results"][place]["classes"];
            assert_eq!(classes[0]["class"], alone[0]["class"]);
            let difference = classes[0]["probability"].as_f64().unwrap()
                - alone[0]["probability"].as_f64().unwrap();
            assert!(difference.abs() < 1e-5);
        }
    }
}

#[test]
fn features_are_those_of_the_model() {
    let server = usual();
    let bytes = png(48, 40);
    let answer = server
        .post("/v1/models/tiny/embed", "image/png", &bytes)
        .json();
    let image = apt_data::RgbImage::from_bytes(&bytes, "x").unwrap();
    let expected = tiny_model().embed(&[image]).remove(0).unwrap();
    let found = answer["results"][0]["embedding"].as_array().unwrap();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found.as_f64().unwrap() - f64::from(*expected)).abs() < 1e-4);
    }
}

#[test]
fn the_open_inference_protocol_says_the_same_in_json_and_in_binary() {
    let server = usual();
    let bytes = png(48, 40);
    let plain = server.classify("", &bytes).json()["results"][0]["classes"][0].clone();
    let metadata = server.get("/v2/models/tiny").json();
    assert_eq!(metadata["inputs"][1]["shape"], json!([-1, 3, 32, 32]));
    let input = json!({ "name": "image", "datatype": "BYTES", "shape": [1], "data": [STANDARD.encode(&bytes)] });
    let request =
        json!({ "id": "7", "inputs": [input], "parameters": { "flops": 1.0 } }).to_string();
    let in_json = server
        .post(
            "/v2/models/tiny/infer",
            "application/json",
            request.as_bytes(),
        )
        .json();
    assert_eq!(
        (&in_json["id"], &in_json["model_name"]),
        (&json!("7"), &json!("tiny"))
    );
    let probabilities = in_json["outputs"][1]["data"].as_array().unwrap();
    let class = plain["index"].as_u64().unwrap() as usize;
    let difference =
        probabilities[class].as_f64().unwrap() - plain["probability"].as_f64().unwrap();
    assert!(difference.abs() < 1e-5);

    let size = json!({ "binary_data_size": bytes.len() + 4 });
    let input = json!({ "name": "image", "datatype": "BYTES", "shape": [1], "parameters": size });
    let outputs = json!([
        { "name": "logits", "parameters": { "binary_data": true } },
        { "name": "probabilities", "parameters": { "classification": 2 } },
    ]);
    let head = json!({ "inputs": [input], "outputs": outputs }).to_string();
    let length = (bytes.len() as u32).to_le_bytes();
    let body = [head.as_bytes(), &length, &bytes].concat();
    let header = head.len().to_string();
    let headers = [("Inference-Header-Content-Length", header.as_str())];
    let answer = server.send("POST", "/v2/models/tiny/versions/1/infer", &headers, &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let split: usize = answer
        .header("Inference-Header-Content-Length")
        .unwrap()
        .parse()
        .unwrap();
    let head: Value = serde_json::from_slice(&answer.body[..split]).unwrap();
    let logits = answer.body[split..].chunks_exact(4);
    let logits: Vec<f32> = logits
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let expected = in_json["outputs"][0]["data"].as_array().unwrap();
    assert_eq!(logits.len(), expected.len());
    for (found, expected) in logits.iter().zip(expected) {
        assert!((f64::from(*found) - expected.as_f64().unwrap()).abs() < 1e-4);
    }
    let named = head["outputs"][1]["data"][0].as_str().unwrap();
    assert!(
        named.ends_with(&format!(":{class}:{}", plain["class"].as_str().unwrap())),
        "{named}"
    );
}

#[test]
fn models_health_metrics_pages_and_the_description_of_the_api_are_there() {
    let server = usual();
    for path in [
        "/health",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/tiny/ready",
        "/v2",
    ] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let models = server.get("/v1/models").json();
    assert_eq!(
        (&models[0]["name"], &models[0]["policy"]),
        (&json!("tiny"), &json!("tome"))
    );
    let index = server
        .post("/v2/repository/index", "application/json", b"{}")
        .json();
    assert_eq!(index[0]["state"], "READY");
    server.classify("", &png(40, 40));
    let metrics = server.get("/metrics").text();
    for name in [
        "aptvit_images_total{model=\"tiny\"} 1",
        "aptvit_share{model=\"tiny\",priority=\"normal\"} 1",
        "aptvit_queue_seconds_bucket",
        "aptvit_requests_total{route=\"/v1/models/{model}/classify\",status=\"200\"} 1",
    ] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    let api = server.get("/openapi.json").json();
    for path in [
        "/v1/models/{model}/classify",
        "/v1/models/{model}/embed",
        "/v2/models/{model}/infer",
    ] {
        assert!(api["paths"][path]["post"].is_object(), "{path}");
    }
    let page = server.get("/");
    assert!(page.text().contains("<main"), "{}", page.text());
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"));
    assert_eq!(
        page.header("X-Content-Type-Options").as_deref(),
        Some("nosniff")
    );
}

#[test]
fn nothing_that_the_pages_name_comes_from_elsewhere() {
    let server = usual();
    for path in ["/", "/docs"] {
        let page = server.get(path).text();
        for part in page.split(['"', '\'']) {
            assert!(
                !part.starts_with("http") && !part.starts_with("//"),
                "{part}"
            );
            if part.starts_with("/assets/") {
                assert_eq!(server.get(part).status, 200, "{part}");
            }
        }
    }
    assert_eq!(server.get("/assets/../Cargo.toml").status, 404);
    assert_eq!(server.get("/assets/%2e%2e/%2e%2e/etc/passwd").status, 404);
}

#[test]
fn pruned_answers_are_sampled_and_compared_with_dense_ones() {
    let mut settings = Settings::default();
    settings.engine.usual = Usual::Share(0.6);
    settings.engine.sample_every = 2;
    let server = start(settings);
    for width in 20..30 {
        assert_eq!(server.classify("", &png(width, 40)).status, 200);
    }
    let samples = || {
        server.get("/v1/load").json()[0]["fidelity_samples"]
            .as_u64()
            .unwrap()
    };
    let started = std::time::Instant::now();
    while samples() < 5 && started.elapsed().as_secs() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(samples(), 5);
    let load = server.get("/v1/load").json()[0].clone();
    let divergence = load["fidelity_kl"].as_f64().unwrap();
    assert!(divergence > 0.0 && divergence < 1.0, "{divergence}");
    assert!(load["fidelity_agreement"].as_f64().unwrap() <= 1.0);
    assert!(
        server
            .get("/metrics")
            .text()
            .contains("aptvit_fidelity_kl_nats{model=\"tiny\"}")
    );
}

#[test]
fn a_model_without_a_head_embeds_alone() {
    let weights = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../vit-model/tests/fixtures/hf-dinov2"
    );
    let model = Model::open(weights.as_ref(), &Device::default()).unwrap();
    let server = start_model(model, Settings::default(), None);
    let refused = server.classify("", &png(40, 40));
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("embedding"), "{}", refused.text());
    let embedded = server.post("/v1/models/tiny/embed", "image/png", &png(40, 40));
    let embedding = &embedded.json()["results"][0]["embedding"];
    assert_eq!(embedding.as_array().unwrap().len(), 16);
    let outputs = &server.get("/v2/models/tiny").json()["outputs"];
    assert_eq!(outputs.as_array().unwrap().len(), 1);
    assert_eq!(outputs[0]["name"], "embedding");
}
