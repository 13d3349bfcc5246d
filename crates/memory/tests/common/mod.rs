//! A tiny model, pictures of one colour, and entries.
#![allow(dead_code)] // each test program uses a part

use apt_data::RgbImage;
use apt_inference::Model;
use apt_memory::{About, Entry, Judge, Label, Picture, Remembered, Whitening, remember};
use apt_vit_model::{ExportDetails, ExportNaming, VitPreset, export, write_safetensors};
use burn::tensor::{Device, Distribution, Tensor};

/// A ViT with random weights and ten classes, the same for the same seed.
pub fn tiny_model(seed: u64) -> Model {
    let device = Device::default();
    device.seed(seed);
    let config = VitPreset::Tiny32.config();
    let vit = config.init(&device).unwrap();
    let shape = [config.hidden_size, config.num_classes];
    let head = Tensor::random(shape, Distribution::Normal(0.0, 0.3), &device);
    let vit = vit.map_head(|_| head);
    let names = (0..config.num_classes).map(|class| format!("thing {class}"));
    let names: Vec<String> = names.collect();
    let details = ExportDetails {
        class_names: &names,
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    let exported = export(&vit, &config, ExportNaming::Timm, details).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write_safetensors(&folder.path().join("model.safetensors"), &exported.tensors).unwrap();
    std::fs::write(
        folder.path().join("config.json"),
        exported.config.to_string(),
    )
    .unwrap();
    Model::open(folder.path(), &device).unwrap()
}

/// A picture of one colour.
pub fn colored(color: [u8; 3]) -> RgbImage {
    RgbImage {
        width: 8,
        height: 8,
        pixels: color.repeat(64),
    }
}

/// What the model makes of pictures of these colours and classes.
pub fn remembered(model: &Model, pictures: &[([u8; 3], &str)]) -> Vec<Remembered> {
    let picture = |&(color, class): &([u8; 3], &str)| {
        Ok(Picture {
            image: colored(color),
            class: class.into(),
            source: format!("{color:?}"),
        })
    };
    remember(model, pictures.iter().map(picture), |_| ()).unwrap()
}

/// The same as entries that are not whitened.
pub fn entries(model: &Model, pictures: &[([u8; 3], &str)]) -> Vec<Entry> {
    let none = Whitening::none(model.description().model.hidden_size);
    let found = remembered(model, pictures).into_iter();
    found.map(|one| one.entry(&none)).collect()
}

/// An entry without a picture.
pub fn entry(id: &str, class: &str, features: [f32; 4]) -> Entry {
    Entry {
        label: Label {
            id: id.into(),
            class: class.into(),
            source: format!("{id}.png"),
        },
        features: features.to_vec(),
    }
}

/// Of entries of four features.
pub fn about() -> About {
    let text = serde_json::json!({ "format": 1, "probe": [1.0, 0.0, 0.0, 0.0], "whitening": Whitening::none(4), "judge": Judge::default() });
    About::parse(&text.to_string()).unwrap()
}

/// An agent that always asks, and believes the memory nearly alone.
pub fn credulous() -> Judge {
    let mut judge = Judge::default();
    judge.trust[0] = 5.0;
    judge
}
