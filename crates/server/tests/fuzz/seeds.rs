//! Sound requests, from which damaged ones are made.

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use image::ImageFormat;
use serde_json::{Value, json};

use crate::Case;
use crate::testing::{picture, png};

/// Height and width of what the tiny model sees.
const SIDE: usize = 32;

pub fn v2_json() -> Vec<Case> {
    let text = STANDARD.encode(png(9, 8));
    let image = |shape: Value, data: Value| json!({ "name": "image", "datatype": "BYTES", "shape": shape, "data": data });
    let pixels = |data: Value| json!({ "name": "pixels", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE], "data": data });
    let rows = vec![vec![vec![0.5; SIDE]; SIDE]; 3];
    let outputs = json!([
        { "name": "logits", "parameters": { "binary_data": true } },
        { "name": "probabilities", "parameters": { "classification": 2 } },
    ]);
    let requests = [
        json!({ "id": "1", "inputs": [image(json!([1]), json!([text]))], "outputs": outputs }),
        json!({ "inputs": [image(json!([2, 1]), json!([text, text]))], "parameters": { "flops": 0.7, "priority": 1, "timeout": 9_000_000 } }),
        json!({ "inputs": [pixels(json!([rows]))], "outputs": [{ "name": "embedding" }], "parameters": { "binary_data_output": true } }),
        json!({ "inputs": [pixels(json!(vec![0; 3 * SIDE * SIDE]))] }),
    ];
    requests
        .map(|request| vec![request.to_string().into_bytes()])
        .into()
}

pub fn v2_binary() -> Vec<Case> {
    let head = |name: &str, kind: &str, shape: Value, bytes: usize| {
        let input = json!({ "name": name, "datatype": kind, "shape": shape, "parameters": { "binary_data_size": bytes } });
        let outputs = json!([{ "name": "probabilities", "parameters": { "binary_data": true } }]);
        json!({ "inputs": [input], "outputs": outputs })
            .to_string()
            .into_bytes()
    };
    let one = |file: &[u8]| [&(file.len() as u32).to_le_bytes(), file].concat();
    let files = [one(&png(9, 8)), one(&picture(8, 9, ImageFormat::Jpeg))].concat();
    let values: Vec<u8> = (0..3 * SIDE * SIDE)
        .flat_map(|value| (value as f32 / 1e3).to_le_bytes())
        .collect();
    let files_head = head("image", "BYTES", json!([2]), files.len());
    let values_head = head("pixels", "FP32", json!([1, 3, SIDE, SIDE]), values.len());
    let said = files_head.len().to_string().into_bytes();
    vec![
        vec![files_head.clone(), files.clone(), Vec::new()],
        vec![files_head, files, said],
        vec![values_head, values, Vec::new()],
    ]
}

pub fn multipart() -> Vec<Case> {
    let mut body = Vec::new();
    for file in [png(9, 8), picture(8, 9, ImageFormat::WebP)] {
        body.extend(b"--Bound\r\nContent-Disposition: form-data; name=\"x\"; filename=\"y\"\r\n");
        body.extend(b"Content-Type: image/png\r\n\r\n");
        body.extend(file);
        body.extend(b"\r\n");
    }
    body.extend(b"--Bound--\r\n");
    vec![vec![b"multipart/form-data; boundary=Bound".to_vec(), body]]
}

pub fn base64() -> Vec<Case> {
    let text = STANDARD.encode(png(9, 8));
    let requests = [
        json!({ "image": text }),
        json!({ "images": [text, format!("data:image/png;base64,{text}")] }),
    ];
    requests
        .map(|request| vec![request.to_string().into_bytes()])
        .into()
}

pub fn pictures() -> Vec<Case> {
    let formats = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP];
    let sizes = [(40, 30), (17, 64), (1, 1)];
    let all = formats
        .iter()
        .flat_map(|&format| sizes.map(|(width, height)| picture(width, height, format)));
    let mut cases: Vec<Case> = all.map(|file| vec![file]).collect();
    // Turned upright by its EXIF data.
    let plain = picture(40, 30, ImageFormat::Jpeg);
    let exif =
        b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    cases.push(vec![[&plain[..2], exif, &plain[2..]].concat()]);
    cases
}

pub fn options() -> Vec<Case> {
    let queries = [
        "",
        "flops=0.6&top=3&explain=true",
        "flops=0.7&priority=high&timeout_ms=20000",
        "priority=low&top=1000",
    ];
    queries.map(|query| vec![query.into()]).into()
}
