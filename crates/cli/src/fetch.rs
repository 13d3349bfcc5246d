//! `aptvit fetch`

use std::path::PathBuf;

use anyhow::{Result, bail};
use apt_data::{Checksum, CifarLabels, DataSource, Progress, cache_folder, download};
use apt_rl_trainer::fetch_checkpoint;
use apt_vit_model::{KNOWN_CHECKPOINTS, KnownCheckpoint, printable, printable_text};
use clap::Parser;
use comfy_table::CellAlignment;
use serde_json::json;

use crate::End;
use crate::global::Global;
use crate::table::table;

/// Name, what it is, publisher, licence, megabytes.
const DATA_SETS: [(&str, &str, &str, &str, u32); 2] = [
    (
        "cifar10",
        "CIFAR-10, binary version",
        "University of Toronto",
        "not stated",
        170,
    ),
    (
        "cifar100",
        "CIFAR-100, binary version",
        "University of Toronto",
        "not stated",
        169,
    ),
];

const EXAMPLES: &str = "\
Examples:
  aptvit fetch                  what there is, with sizes and licences
  aptvit fetch cifar10
  aptvit fetch vit-b16-in21k
  aptvit fetch https://example.org/model.safetensors

A broken transfer goes on where it stopped, and a server that is silent or gets no further is given up after some tries.
A web page is refused where weights or an archive were asked for. Where nobody publishes a checksum, the first download's
checksum is recorded beside the file, and later downloads must match it. APT_CACHE names another cache folder,
HF_ENDPOINT a mirror of Hugging Face, HTTPS_PROXY a proxy.";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Fetch {
    /// A name from the list, or an address of a weights file [default: print the list]
    #[arg(value_name = "NAME|URL")]
    pub what: Option<String>,
}

pub fn run(args: &Fetch, global: &Global) -> Result<End> {
    let Some(what) = &args.what else {
        list(global)?;
        return Ok(End::Done);
    };
    match what.as_str() {
        "cifar10" => images(DataSource::Cifar10 {}, global)?,
        "cifar100" => {
            let labels = CifarLabels::Fine;
            images(DataSource::Cifar100 { labels }, global)?;
        }
        url if url.starts_with("http://") || url.starts_with("https://") => {
            let path = cache_folder()?.join("weights").join(place_of(url)?);
            download(url, &path, &Checksum::FirstUse, Progress::Bar)?;
            weights(path, global);
        }
        name => match KnownCheckpoint::from_name(name) {
            Some(known) => weights(fetch_checkpoint(known, Progress::Bar)?, global),
            None => bail!(
                "there is nothing called '{}' to download: `aptvit fetch` lists what there is, \
                 and an address (https://...) may be given instead",
                printable_text(name)
            ),
        },
    }
    Ok(End::Done)
}

/// Where an address is kept: host and path, so that no two files share a place.
fn place_of(url: &str) -> Result<PathBuf> {
    let address = url.split(['?', '#']).next().unwrap_or_default();
    let (_, address) = address.split_once("://").unwrap_or_default();
    let parts: Vec<String> = address
        .split('/')
        .map(|part| part.replace(':', "_"))
        .collect();
    if parts.len() < 2
        || parts
            .iter()
            .any(|part| part.is_empty() || part.starts_with('.'))
    {
        bail!("{}: the address names no file", printable_text(url));
    }
    Ok(parts.iter().collect())
}

fn list(global: &Global) -> Result<()> {
    let data_sets = DATA_SETS.iter();
    if global.json {
        let data_sets: Vec<_> = data_sets
            .map(|(name, summary, publisher, licence, megabytes)| {
                json!({
                    "name": name,
                    "summary": summary,
                    "publisher": publisher,
                    "licence": licence,
                    "megabytes": megabytes,
                })
            })
            .collect();
        println!(
            "{}",
            json!({ "data_sets": data_sets, "checkpoints": KNOWN_CHECKPOINTS })
        );
        return Ok(());
    }
    let mut rows = table(&["name", "what it is", "publisher", "licence", "about MB"]);
    for (name, summary, publisher, licence, megabytes) in data_sets {
        rows.add_row([*name, summary, publisher, licence, &megabytes.to_string()]);
    }
    for known in KNOWN_CHECKPOINTS {
        let megabytes = known.megabytes.to_string();
        rows.add_row([
            known.name,
            known.summary,
            known.publisher,
            known.licence,
            &megabytes,
        ]);
    }
    for column in rows.column_iter_mut().take(4) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    println!("{rows}");
    println!("Downloads go to {}.", printable(&cache_folder()?));
    println!("A checkpoint's name can be given as model.pretrained, too.");
    Ok(())
}

fn images(source: DataSource, global: &Global) -> Result<()> {
    let splits = source.load(None, Progress::Bar)?;
    let cache = cache_folder()?;
    let (train, test) = (splits.train.len(), splits.test.len());
    if global.json {
        println!(
            "{}",
            json!({ "cache": cache, "train": train, "test": test })
        );
    } else {
        println!(
            "{train} training and {test} test images in {}",
            printable(&cache)
        );
    }
    Ok(())
}

fn weights(path: PathBuf, global: &Global) {
    if global.json {
        println!("{}", json!({ "path": path }));
    } else {
        println!("{}", printable(&path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_same_name_have_places_of_their_own() {
        let place = |url| place_of(url).unwrap();
        let first = place("https://a.org/one/model.safetensors?download=true");
        assert_eq!(first, PathBuf::from("a.org/one/model.safetensors"));
        assert_ne!(first, place("https://a.org/two/model.safetensors"));
        assert_eq!(place("http://h:80/x.npz"), PathBuf::from("h_80/x.npz"));
        for url in [
            "https://a.org",
            "https://a.org/",
            "https://a.org/../x",
            "https://a.org/x/",
        ] {
            assert!(place_of(url).is_err(), "{url}");
        }
    }
}
