//! `aptvit infer`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use apt_data::{RgbImage, eval_image};
use apt_vit_model::ExecutionMode;
use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, TensorData};
use serde_json::json;

use crate::args::{Global, Infer};
use crate::eval::{amount, progress_bar};
use crate::picture;
use crate::table::percent;
use crate::{End, device, open_run};

/// Images of a forward pass.
const BATCH: usize = 16;

pub fn run(args: &Infer, global: &Global) -> Result<End> {
    let device = device::open();
    let run = open_run(&args.run, global)?;
    let checkpoint = run.checkpoint(args.checkpoint.into())?;
    let model = run.load_model(&checkpoint, &device)?.prepack();
    let paths = pictures(&args.paths)?;
    let description = &run.description;
    let name = checkpoint.folder_name();
    let amount = amount(&run, &model, args.threshold, args.target_flops, &name)?;
    let size = description.model.image_size;
    let sides = [size.height as u32, size.width as u32];
    if let Some(folder) = &args.visualize {
        if folder.is_file() {
            bail!(
                "--visualize {}: is a file; expected a folder",
                folder.display()
            );
        }
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot create the folder", folder.display()))?;
    }

    let bar = progress_bar(paths.len() as u64, "images");
    let mut results = Vec::new();
    for paths in paths.chunks(BATCH) {
        let mut values = vec![0.0; paths.len() * 3 * size.area()];
        for (path, values) in paths.iter().zip(values.chunks_exact_mut(3 * size.area())) {
            let image = RgbImage::open(path)?;
            eval_image(&image, sides, &description.normalization, values);
        }
        let data = TensorData::new(values, [paths.len(), 3, size.height, size.width]);
        let images = Tensor::<4>::from_data(data, &device);
        let seeds: Vec<u64> = (0..paths.len() as u64).collect();
        let output = model.run(images, ExecutionMode::Drop, &amount, &seeds);
        let probabilities: Vec<f32> = softmax(output.logits, 1)
            .into_data()
            .iter::<f32>()
            .collect();
        let classes = description.class_names.len();
        for (image, path) in paths.iter().enumerate() {
            let row = &probabilities[image * classes..(image + 1) * classes];
            let mut order: Vec<usize> = (0..classes).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let picture = match &args.visualize {
                Some(folder) => Some(picture::write(
                    folder,
                    path,
                    &description.model,
                    &output.trace,
                    image,
                )?),
                None => None,
            };
            let top: Vec<(&str, f32)> = order[..args.top.min(classes)]
                .iter()
                .map(|&class| (description.class_names[class].as_str(), row[class]))
                .collect();
            let tokens: Vec<(usize, usize)> = output
                .trace
                .iter()
                .map(|entry| (entry.layer, entry.left[image]))
                .collect();
            let (flops, share) = model.flops(&output.trace, image);
            if global.json {
                results.push(json!({
                    "image": path,
                    "classes": top.iter().map(|(class, p)| json!({ "class": class, "probability": p })).collect::<Vec<_>>(),
                    "tokens": description.model.num_tokens(),
                    "tokens_per_layer": tokens.iter().map(|(_, left)| left).collect::<Vec<_>>(),
                    "flops": flops,
                    "flops_share": share,
                    "picture": picture,
                }));
            } else {
                let top: Vec<String> = top
                    .iter()
                    .map(|(class, p)| format!("{class} {}", percent(f64::from(*p))))
                    .collect();
                let tokens: Vec<String> = tokens
                    .iter()
                    .map(|(layer, left)| format!("{left} after block {layer}"))
                    .collect();
                bar.suspend(|| {
                    println!("{}: {}", path.display(), top.join(", "));
                    println!(
                        "  tokens: {}, then {}; FLOPs, agents included: {} of dense",
                        description.model.num_tokens(),
                        tokens.join(", "),
                        percent(share)
                    );
                    if let Some(picture) = picture {
                        println!("  picture: {}", picture.display());
                    }
                });
            }
        }
        bar.inc(paths.len() as u64);
    }
    bar.finish_and_clear();
    if global.json {
        println!("{}", json!(results));
    }
    Ok(End::Done)
}

/// The files that are named, and the pictures in the folders that are named.
fn pictures(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut pictures = Vec::new();
    for path in paths {
        if !path.is_dir() {
            if !path.exists() {
                bail!("{}: there is no such file or folder", path.display());
            }
            pictures.push(path.clone());
            continue;
        }
        let before = pictures.len();
        collect(path, &mut pictures)?;
        if pictures.len() == before {
            bail!(
                "{}: the folder holds no .png, .jpg or .jpeg file",
                path.display()
            );
        }
    }
    Ok(pictures)
}

fn collect(folder: &Path, pictures: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .with_context(|| format!("{}: cannot read the folder", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if path.is_dir() {
            collect(&path, pictures)?;
        } else if extension == "png" || extension == "jpg" || extension == "jpeg" {
            pictures.push(path);
        }
    }
    Ok(())
}
