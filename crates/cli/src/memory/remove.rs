//! `aptvit memory remove`

use anyhow::{Result, bail};
use apt_memory::{Which, open};
use apt_vit_model::printable_text;
use clap::Parser;
use serde_json::json;

use super::MemoryArgs;
use crate::global::Global;
use crate::{End, device};

#[derive(Debug, Parser)]
#[group(id = "which", required = true, multiple = false, args = ["ids", "class", "source"])]
pub struct Remove {
    #[command(flatten)]
    memory: MemoryArgs,
    /// Those with these ids, as `aptvit memory list --entries` shows them
    #[arg(long = "id", value_name = "ID,..", value_delimiter = ',')]
    ids: Vec<String>,
    /// All of this class
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// All that came from this file
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

pub fn run(args: &Remove, global: &Global) -> Result<End> {
    let which = match (&args.class, &args.source) {
        (Some(class), _) => Which::Class(class.clone()),
        (_, Some(source)) => Which::Source(source.clone()),
        _ => Which::Ids(args.ids.clone()),
    };
    let mut store = open(&args.memory.memory, &device::open())?;
    let removed = store.remove(&which)?;
    let address = printable_text(&args.memory.memory);
    if removed == 0 {
        bail!(
            "{address}: holds no such image; `aptvit memory list --memory ADDRESS --entries` shows what it holds"
        );
    }
    let left = store.list()?.len();
    if global.json {
        println!(
            "{}",
            json!({ "memory": args.memory.memory, "removed": removed, "entries": left })
        );
    } else {
        println!("{address}: {removed} images removed, {left} left");
    }
    Ok(End::Done)
}
