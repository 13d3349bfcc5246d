//! `aptvit fetch`

use anyhow::Result;
use apt_data::{CifarLabels, DataSource, Progress, cache_folder};
use clap::ValueEnum;
use serde_json::json;

use crate::End;
use crate::args::{Fetch, Fetchable, Global};

pub fn run(args: &Fetch, global: &Global) -> Result<End> {
    let Some(what) = args.what else {
        for what in Fetchable::value_variants() {
            let value = what.to_possible_value();
            let (name, help) = value
                .map(|value| {
                    (
                        value.get_name().to_string(),
                        value.get_help().map(ToString::to_string),
                    )
                })
                .unwrap_or_default();
            println!("{name:10} {}", help.unwrap_or_default());
        }
        return Ok(End::Done);
    };
    let source = match what {
        Fetchable::Cifar10 => DataSource::Cifar10 {},
        Fetchable::Cifar100 => DataSource::Cifar100 {
            labels: CifarLabels::Fine,
        },
    };
    let splits = source.load(None, Progress::Bar)?;
    let cache = cache_folder()?;
    if global.json {
        println!(
            "{}",
            json!({ "cache": cache, "train": splits.train.len(), "test": splits.test.len() })
        );
    } else {
        println!(
            "{} training and {} test images in {}",
            splits.train.len(),
            splits.test.len(),
            cache.display()
        );
    }
    Ok(End::Done)
}
