//! `aptvit report`

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apt_report::{FILE, PassSettings, write, write_after_training};
use apt_vit_model::printable;
use clap::Parser;

use crate::progress_bar::progress_bar;
use crate::values::duration as parse_duration;
use crate::{End, device, panics};

/// Limits of the report at the end of a training, a pruning or a sweep.
const AT_THE_END: PassSettings = PassSettings {
    images: 256,
    time_limit: Some(Duration::from_secs(20)),
    data: None,
};

const EXAMPLES: &str = "\
Examples:
  aptvit report runs/mine --open
  aptvit report half --data imagenet/val --images 500 --out half.html
  aptvit report runs/first runs/second --out both.html      side by side, with a diff of their settings
  aptvit report sweep --images 0                            from the files alone

One self-contained page. If a folder is not complete, the page says what is missing. For pictures, confusions and easy and
hard images, the model runs on test images of the folder's own data.";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Report {
    /// Folders of runs, of sweeps, or of pruned or exported models
    #[arg(required = true, value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// The page [default: report.html in the folder; of several folders, in the current one]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Images on which each model is run, at most; 0 leaves these sections out
    #[arg(long, value_name = "N", default_value = "300")]
    pub images: usize,
    /// Other test images than the folder's own: a folder or an archive
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Begin no further batch of images after this time, as in 90s or 5m
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub time_limit: Option<Duration>,
    /// Show the page in the browser
    #[arg(long)]
    pub open: bool,
}

pub fn run(args: &Report) -> Result<End> {
    if let Some(data) = args.data.as_deref().filter(|data| !data.exists()) {
        bail!(
            "--data {}: there is no such file or folder",
            printable(data)
        );
    }
    let file = match (&args.out, args.folders.as_slice()) {
        (Some(file), _) => file.clone(),
        (None, [folder]) => folder.join(FILE),
        (None, _) => FILE.into(),
    };
    let settings = PassSettings {
        images: args.images,
        time_limit: args.time_limit,
        data: args.data.clone(),
    };
    write_page(&args.folders, &file, &settings)?;
    println!("{}", printable(&file));
    if args.open {
        open::that_detached(&file).with_context(|| format!("cannot open {}", printable(&file)))?;
    }
    Ok(End::Done)
}

fn write_page(folders: &[PathBuf], file: &Path, settings: &PassSettings) -> Result<()> {
    let written = with_bar(|progress| write(folders, file, settings, &device::open(), progress));
    Ok(written?)
}

/// Shows a bar for images on which a model is run.
fn with_bar<T>(run: impl FnOnce(&dyn Fn(usize, usize)) -> T) -> T {
    let bar = progress_bar(0, "images looked at");
    let done = run(&|done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    done
}

/// The end of a training: pictures for TensorBoard, and the page.
pub fn at_the_end_of_a_training(run: &Path) {
    let file = run.join(FILE);
    let written = panics::caught(|| {
        Ok(with_bar(|progress| {
            write_after_training(run, &file, &AT_THE_END, &device::open(), progress)
        })?)
    });
    match written {
        Ok(written) => {
            if let Err(error) = written.pictures {
                tracing::warn!("TensorBoard has no pictures of kept patches: {error}");
            }
            say(&file, written.page.map_err(Into::into));
        }
        Err(error) => say(&file, Err(error)),
    }
}

/// The page at the end of a training, a pruning or a sweep. A failure is only a warning: the work itself is done.
pub fn at_the_end(folder: &Path) {
    let file = folder.join(FILE);
    let written = panics::caught(|| write_page(&[folder.to_path_buf()], &file, &AT_THE_END));
    say(&file, written);
}

fn say(file: &Path, written: Result<()>) {
    match written {
        Ok(()) => eprintln!("report: {}", printable(file)),
        Err(error) => tracing::warn!("no report was written: {error:#}"),
    }
}
