//! Times candle's ViT and prints one JSON line. `RAYON_NUM_THREADS` sets the threads.

use std::collections::HashMap;
use std::error::Error;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::vit::{Config, Model};

const USAGE: &str =
    "usage: peer-candle [--model vit-b16|vit-s16] [--batch N] [--repeats N] [--warmup N]";

struct Args {
    model: String,
    batch: usize,
    repeats: usize,
    warmup: usize,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut args = Self {
            model: "vit-s16".into(),
            batch: 1,
            repeats: 10,
            warmup: 2,
        };
        while let Some(name) = words.next() {
            let value = words.next().ok_or(USAGE)?;
            let number = || {
                value
                    .parse()
                    .map_err(|_| format!("{name} {value}\n{USAGE}"))
            };
            match name.as_str() {
                "--model" => args.model = value,
                "--batch" => args.batch = number()?,
                "--repeats" => args.repeats = number()?,
                "--warmup" => args.warmup = number()?,
                _ => return Err(format!("{name}: unknown\n{USAGE}").into()),
            }
        }
        if args.batch == 0 || args.repeats == 0 {
            return Err("--batch and --repeats start at 1".into());
        }
        Ok(args)
    }
}

fn config(model: &str) -> Result<Config, String> {
    let base = Config::vit_base_patch16_224();
    match model {
        "vit-b16" => Ok(base),
        "vit-s16" => Ok(Config {
            hidden_size: 384,
            num_attention_heads: 6,
            intermediate_size: 1536,
            ..base
        }),
        _ => Err(format!("{model}: expected vit-b16 or vit-s16")),
    }
}

/// A model with random weights, and how many.
fn build(config: &Config, device: &Device) -> candle_core::Result<(Model, usize)> {
    const CLASSES: usize = 1000;
    let variables = VarMap::new();
    let builder = VarBuilder::from_varmap(&variables, DType::F32, device);
    Model::new(config, CLASSES, builder)?;
    // Plain tensors: with variables, a pass would keep what a backward pass needs.
    let weights: HashMap<String, Tensor> = {
        let data = variables.data().lock().expect("no other thread holds it");
        let detached = data.iter().map(|(name, var)| (name.clone(), var.detach()));
        detached.collect()
    };
    let count = weights.values().map(Tensor::elem_count).sum();
    let builder = VarBuilder::from_tensors(weights, DType::F32, device);
    Ok((Model::new(config, CLASSES, builder)?, count))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse(std::env::args().skip(1))?;
    let device = Device::Cpu;
    let config = config(&args.model)?;
    let (model, parameters) = build(&config, &device)?;
    let side = config.image_size;
    let images = Tensor::randn(0f32, 1.0, (args.batch, 3, side, side), &device)?;
    let mut seconds = Vec::new();
    for pass in 0..args.warmup + args.repeats {
        let start = Instant::now();
        model.forward(&images)?;
        if pass >= args.warmup {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    println!(
        r#"{{"model": "{}", "batch": {}, "threads": {}, "parameters": {parameters}, "images_per_s": {}}}"#,
        args.model,
        args.batch,
        candle_core::utils::get_num_threads(),
        args.batch as f64 / median(seconds),
    );
    Ok(())
}
