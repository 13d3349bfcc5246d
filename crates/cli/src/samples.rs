//! Pictures to try a model on, where its images are generated and nobody has any.

use std::path::Path;

use anyhow::{Context, Result};
use apt_data::{DataSource, Progress};
use apt_report::quoted;
use apt_rl_trainer::RunFolder;

use crate::global::Global;
use crate::infer::{self, Infer};
use crate::model_args::{ModelArgs, Which};

/// How many.
const COUNT: usize = 10;

/// Writes test images into the run's folder, classifies them, and says how to do it again.
pub fn try_some(folder: &Path, global: &Global) -> Result<()> {
    let run = RunFolder::open(folder)?;
    if !matches!(run.config.data, DataSource::Shapes { .. }) {
        return Ok(());
    }
    let pictures = folder.join("pictures");
    std::fs::create_dir_all(&pictures)
        .with_context(|| format!("{}: cannot create the folder", pictures.display()))?;
    let test = run.config.load_data(None, Progress::Hidden)?.test;
    for index in 0..COUNT.min(test.len()) {
        let seen = test.image(index)?;
        let class = &test.class_names()[test.label(index)];
        let path = pictures.join(format!("{index}-{class}.png"));
        let picture = image::RgbImage::from_raw(seen.width, seen.height, seen.pixels);
        let picture = picture.context("a generated image does not fit its size")?;
        picture
            .save(&path)
            .with_context(|| format!("{}: cannot write the picture", path.display()))?;
    }
    println!("{COUNT} test images, named by their classes:");
    let kept = folder.join("kept-patches");
    let args = Infer {
        model: ModelArgs {
            fit_on: None,
            run: folder.into(),
            flops: None,
            policy: None,
            threshold: None,
            checkpoint: Which::default(),
            classes: None,
        },
        paths: vec![pictures.clone()],
        top: 1,
        memory: None,
        explain: false,
        visualize: Some(kept.clone()),
        animate: false,
    };
    infer::run(&args, global)?;
    println!(
        "again: aptvit infer --run {} {} --visualize {}",
        quoted(folder),
        quoted(&pictures),
        quoted(&kept)
    );
    Ok(())
}
