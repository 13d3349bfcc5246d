//! A tiny model and pictures, for tests.
#![allow(dead_code)] // each test program uses a part

use std::io::Cursor;
use std::sync::LazyLock;

use apt_inference::Model;
use apt_vit_model::{ExportDetails, ExportNaming, VitPreset, export, write_safetensors};
use burn::tensor::{Device, Distribution, Tensor};
use image::{ImageFormat, Rgb, RgbImage};

/// A ViT of 64 patches and six blocks with random weights and no policy, as published weights are.
///
/// It is the same in all tests of a process: seeds are the device's, which they share.
pub fn tiny_model() -> Model {
    static MODEL: LazyLock<Model> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        write_tiny_model(folder.path());
        Model::open(folder.path(), &Device::default()).unwrap()
    });
    MODEL.clone()
}

/// Writes its weights into a folder.
pub fn write_tiny_model(folder: &std::path::Path) {
    let device = Device::default();
    device.seed(5);
    let config = VitPreset::Tiny32.config();
    let vit = config.init(&device).unwrap();
    let shape = [config.hidden_size, config.num_classes];
    let head = Tensor::random(shape, Distribution::Normal(0.0, 0.3), &device);
    let vit = vit.map_head(|_| head);
    let names: Vec<String> = (0..config.num_classes)
        .map(|class| format!("thing {class}"))
        .collect();
    let details = ExportDetails {
        class_names: &names,
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    let exported = export(&vit, &config, ExportNaming::Timm, details).unwrap();
    write_safetensors(&folder.join("model.safetensors"), &exported.tensors).unwrap();
    std::fs::write(folder.join("config.json"), exported.config.to_string()).unwrap();
}

/// A picture of noise.
pub fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let pixel = |x: u32, y: u32| {
        let noise = (x * 7919)
            .wrapping_add(y * 104_729)
            .wrapping_mul(2_654_435_761)
            >> 8;
        Rgb([noise as u8, (noise >> 4) as u8, (x * 6) as u8])
    };
    let mut bytes = Cursor::new(Vec::new());
    let picture = RgbImage::from_fn(width, height, pixel);
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// The same as PNG.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    picture(width, height, ImageFormat::Png)
}

/// A large picture of one colour: few bytes that take long to decode.
pub fn large_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let picture = RgbImage::from_pixel(width, height, Rgb([90, 120, 60]));
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// PNG's checksum (ISO 3309).
pub fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| {
        if crc & 1 == 1 {
            0xedb8_8320 ^ (crc >> 1)
        } else {
            crc >> 1
        }
    };
    !bytes
        .iter()
        .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
