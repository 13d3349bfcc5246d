//! What every target does with its bytes: what a training does with a weights file.

use std::path::Path;

use apt_vit_model::{Checkpoint, CheckpointHead, VitError};
use burn::tensor::Device;

/// Opens the bytes as a weights file, describes it, and loads all that is in it.
pub fn read(bytes: &[u8], name: &str) {
    let folder = tempfile::tempdir().expect("a folder for the file");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("space for the file");
    // An error is what a damaged file ends in; a panic is what is looked for.
    let _ = load(&path);
}

fn load(path: &Path) -> Result<(), VitError> {
    let mut checkpoint = Checkpoint::open(path)?;
    let info = checkpoint.info();
    let mut config = info.config;
    // A head of its own size is made fresh in a training.
    let head = match info.classes {
        Some(classes) if classes <= 1000 => CheckpointHead::Load,
        _ => CheckpointHead::Fresh,
    };
    config.num_classes = config.num_classes.min(1000);
    let vit = config.init(&Device::default())?;
    checkpoint.load(vit, &config, head, None)?;
    Ok(())
}
