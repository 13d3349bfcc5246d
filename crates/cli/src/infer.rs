//! `aptvit infer`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use apt_data::RgbImage;
use apt_inference::Answer;
use clap::Parser;
use serde_json::json;

use crate::End;
use crate::global::Global;
use crate::model_args::ModelArgs;
use crate::picture;
use crate::progress_bar::progress_bar;
use crate::table::percent;
use crate::values::at_least_one;

/// Images of a forward pass.
const BATCH: usize = 16;

const EXAMPLES: &str = "\
Examples:
  aptvit infer --run runs/mine cat.jpg dog.png
  aptvit infer --run runs/mine photos/ --visualize pictures/ --top 3
  aptvit infer --run exported --flops 0.5 cat.jpg
  aptvit infer --run deit.safetensors --flops 0.6 photos/    published weights, merging by ToMe";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Infer {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Pictures (PNG, JPEG), or folders of them
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Classes to show
    #[arg(long, value_name = "N", default_value = "3", value_parser = at_least_one)]
    pub top: usize,
    /// Write a picture for each image with the removed patches dimmed, layer by layer
    #[arg(long, value_name = "DIR")]
    pub visualize: Option<PathBuf>,
}

pub fn run(args: &Infer, global: &Global) -> Result<End> {
    let model = args.model.open(global)?;
    let paths = pictures(&args.paths)?;
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
        let images = paths.iter().map(|path| RgbImage::open(path));
        let images = images.collect::<Result<Vec<RgbImage>, _>>()?;
        let answers = model.classify(&images, args.top);
        for ((path, image), answer) in paths.iter().zip(&images).zip(answers) {
            let drawn = args.visualize.as_ref().map(|folder| {
                let config = model.pruning().config();
                let size = [config.image_size.height, config.image_size.width];
                let size = size.map(|side| side as u32);
                let seen = model.description().transform.part(image, size);
                picture::write(folder, path, seen, config, &answer.layers)
            });
            let drawn = drawn.transpose()?;
            if global.json {
                results.push(in_json(path, &answer, drawn));
            } else {
                bar.suspend(|| print(path, &answer, drawn));
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

fn in_json(path: &Path, answer: &Answer, picture: Option<PathBuf>) -> serde_json::Value {
    let tokens: Vec<usize> = answer.layers.iter().map(|layer| layer.tokens).collect();
    json!({
        "image": path,
        "classes": answer.classes,
        "tokens": answer.tokens,
        "tokens_per_layer": tokens,
        "flops": answer.flops,
        "flops_share": answer.flops_share,
        "picture": picture,
    })
}

fn print(path: &Path, answer: &Answer, picture: Option<PathBuf>) {
    let classes = answer.classes.iter();
    let classes: Vec<String> = classes
        .map(|class| format!("{} {}", class.class, percent(f64::from(class.probability))))
        .collect();
    println!("{}: {}", path.display(), classes.join(", "));
    let layers = answer.layers.iter();
    let layers: Vec<String> = layers
        .map(|layer| format!("{} after block {}", layer.tokens, layer.layer))
        .collect();
    let layers = match layers.as_slice() {
        [] => "all of them to the end".to_string(),
        [first, .., last] if layers.len() > 4 => format!("then {first} .. {last}"),
        all => format!("then {}", all.join(", ")),
    };
    println!(
        "  tokens: {}, {layers}; FLOPs, the policy's own included: {} of dense",
        answer.tokens,
        percent(answer.flops_share)
    );
    if let Some(picture) = picture {
        println!("  picture: {}", picture.display());
    }
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
