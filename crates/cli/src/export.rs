//! `aptvit export`

use anyhow::Result;
use apt_rl_trainer::export_model;
use serde_json::json;

use crate::args::{Export, Global};
use crate::{End, device, open_run};

pub fn run(args: &Export, global: &Global) -> Result<End> {
    let run = open_run(&args.run, global)?;
    let checkpoint = run.checkpoint(args.checkpoint.into())?;
    let model = run.load_model(&checkpoint, &device::open())?;
    export_model(&model, &run.description, args.naming.into(), &args.out)?;
    let checkpoint = checkpoint.folder_name();
    if global.json {
        println!(
            "{}",
            json!({ "folder": args.out, "checkpoint": checkpoint })
        );
    } else {
        println!(
            "{checkpoint} of {} is in {}",
            args.run.display(),
            args.out.display()
        );
    }
    Ok(End::Done)
}
