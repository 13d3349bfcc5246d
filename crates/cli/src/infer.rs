//! `aptvit infer`

mod answerer;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use apt_data::RgbImage;
use apt_inference::Answer;
use apt_memory::Lookup;
use apt_report::{Pictures, ReportError};
use apt_vit_model::{printable, printable_text};
use clap::Parser;
use indicatif::ProgressBar;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::End;
use crate::global::Global;
use crate::model_args::ModelArgs;
use crate::named_pictures::named_pictures;
use crate::progress_bar::progress_bar;
use crate::table::percent;
use crate::values::at_least_one;
use answerer::Answerer;

/// Images of a forward pass.
const BATCH: usize = 16;

const EXAMPLES: &str = "\
Examples:
  aptvit infer --run runs/mine cat.jpg dog.png
  aptvit infer --run runs/mine photos/ --visualize pictures/ --top 3
  aptvit infer --run runs/mine cat.jpg --visualize pictures/ --animate
  aptvit infer --run exported --flops 0.5 cat.jpg
  aptvit infer --run deit.safetensors --flops 0.6 photos/    published weights, merging by ToMe
  aptvit infer --run runs/mine --memory pets.safetensors --explain cat.jpg";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Infer {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Pictures (PNG, JPEG, WebP, BMP, GIF), or folders of them. Those without an answer are listed at the end
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Classes to show
    #[arg(long, value_name = "N", default_value = "3", value_parser = at_least_one)]
    pub top: usize,
    /// Ask this memory where the model is unsure (see `aptvit memory`): a file, or postgres://user@host/database#name
    #[arg(long, value_name = "ADDRESS")]
    pub memory: Option<String>,
    /// Show the entries of the memory that spoke, the most similar first
    #[arg(long, requires = "memory")]
    pub explain: bool,
    /// Write a picture for each image: what the policy's blocks removed is hatched, what merged has one outline
    #[arg(long, value_name = "DIR")]
    pub visualize: Option<PathBuf>,
    /// Beside each picture, a GIF that shows one block after the other
    #[arg(long, requires = "visualize")]
    pub animate: bool,
}

pub fn run(args: &Infer, global: &Global) -> Result<End> {
    let answerer = Answerer::open(args, global)?;
    let model = answerer.model();
    let paths = named_pictures(&args.paths)?;
    if let Some(folder) = &args.visualize {
        if folder.is_file() {
            bail!(
                "--visualize {}: is a file; expected a folder",
                printable(folder)
            );
        }
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot create the folder", printable(folder)))?;
    }
    let mut drawings = args.visualize.as_deref().map(Pictures::new);
    let mut progress = Progress::new(paths.len());
    let mut results = Vec::new();
    let mut bad = Vec::new();
    let mut unanswered = Vec::new();
    for paths in paths.chunks(BATCH) {
        let read: Vec<_> = paths.par_iter().map(|path| RgbImage::open(path)).collect();
        let mut images = Vec::new();
        let mut read_paths = Vec::new();
        let mut entries = vec![Value::Null; paths.len()];
        for (place, (path, image)) in paths.iter().zip(read).enumerate() {
            match image {
                Ok(image) => {
                    images.push(image);
                    read_paths.push((place, path));
                }
                Err(error) => {
                    let error = error.to_string();
                    entries[place] = json!({ "image": in_text(path), "error": error });
                    bad.push(error);
                }
            }
        }
        let answers = if images.is_empty() {
            Vec::new()
        } else {
            answerer.classify(&images, args.top)
        };
        for (((place, path), image), answer) in read_paths.into_iter().zip(&images).zip(answers) {
            let (answer, lookup) = match answer {
                Ok(answer) => answer,
                Err(reason) => {
                    entries[place] = json!({ "image": in_text(path), "error": reason.to_string() });
                    unanswered.push(format!("{}: {reason}", printable(path)));
                    continue;
                }
            };
            let drawn = drawings.as_mut().map(|drawings| {
                let config = model.pruning().config();
                let size = [config.image_size.height, config.image_size.width];
                let size = size.map(|side| side as u32);
                let seen = model.description().transform.part(image, size);
                let drawn = drawings.write(path, &seen, config, &answer)?;
                let animated = args
                    .animate
                    .then(|| drawings.animate(path, &seen, config, &answer));
                Ok::<_, ReportError>((drawn, animated.transpose()?))
            });
            let (drawn, animated) = drawn.transpose()?.unzip();
            let animated = animated.flatten();
            if global.json {
                let mut entry = in_json(path, &answer, drawn, animated);
                entry["memory"] = json!(lookup);
                entries[place] = entry;
            } else {
                progress.bar.suspend(|| {
                    print(path, &answer, [drawn, animated]);
                    if let Some(lookup) = lookup {
                        print_lookup(&lookup, args.explain);
                    }
                });
            }
        }
        results.extend(entries);
        progress.add(paths.len());
    }
    progress.bar.finish_and_clear();
    if global.json {
        println!("{}", Value::Array(results));
    }
    let told = |problems: Vec<String>, what: &str| {
        let (count, total) = (problems.len(), paths.len());
        let said = problems.join("\n  ");
        (count > 0).then(|| format!("{count} of {total} pictures {what}:\n  {said}"))
    };
    let unread = told(bad, "could not be read");
    let problems = [unread, told(unanswered, "have no answer")];
    let problems: Vec<String> = problems.into_iter().flatten().collect();
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(End::Done)
}

/// How many pictures are done: a bar, or a line every few seconds where stderr is no terminal.
struct Progress {
    bar: ProgressBar,
    total: usize,
    done: usize,
    last_line: Option<Instant>,
}

impl Progress {
    const LINE_EVERY: Duration = Duration::from_secs(10);

    fn new(total: usize) -> Self {
        let lines = !std::io::stderr().is_terminal();
        Self {
            bar: progress_bar(total as u64, "images"),
            total,
            done: 0,
            last_line: lines.then(Instant::now),
        }
    }

    fn add(&mut self, count: usize) {
        self.done += count;
        self.bar.inc(count as u64);
        if let Some(last) = &mut self.last_line
            && last.elapsed() >= Self::LINE_EVERY
        {
            eprintln!("{} of {} pictures", self.done, self.total);
            *last = Instant::now();
        }
    }
}

/// A path as JSON can hold it.
fn in_text(path: &Path) -> String {
    path.display().to_string()
}

fn in_json(
    path: &Path,
    answer: &Answer,
    picture: Option<PathBuf>,
    animation: Option<PathBuf>,
) -> Value {
    let tokens: Vec<usize> = answer.layers.iter().map(|layer| layer.tokens).collect();
    json!({
        "image": in_text(path),
        "classes": answer.classes,
        "features": (!answer.features.is_empty()).then_some(&answer.features),
        "tokens": answer.tokens,
        "tokens_per_layer": tokens,
        "flops": answer.flops,
        "flops_share": answer.flops_share,
        "picture": picture.as_deref().map(in_text),
        "animation": animation.as_deref().map(in_text),
    })
}

fn print(path: &Path, answer: &Answer, [picture, animation]: [Option<PathBuf>; 2]) {
    let classes = answer.classes.iter();
    let classes: Vec<String> = classes
        .map(|class| {
            let name = printable_text(&class.class);
            format!("{name} {}", percent(f64::from(class.probability)))
        })
        .collect();
    let said = match answer.features.len() {
        0 => classes.join(", "),
        count => format!("{count} features (--json gives them)"),
    };
    println!("{}: {said}", printable(path));
    let layers = answer.layers.iter();
    let layers: Vec<String> = layers
        .map(|layer| {
            if layer.restarted {
                format!("all of them again after block {}", layer.layer)
            } else if layer.is_answer() {
                format!("answered in block {}", layer.layer)
            } else {
                format!("{} after block {}", layer.tokens, layer.layer)
            }
        })
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
        println!("  picture: {}", printable(&picture));
    }
    if let Some(animation) = animation {
        println!("  animation: {}", printable(&animation));
    }
}

/// What the memory said.
fn print_lookup(lookup: &Lookup, explain: bool) {
    if let Some(failure) = &lookup.failure {
        println!(
            "  the memory could not be asked, and the model answered alone: {}",
            printable_text(failure)
        );
        return;
    }
    let Some(weight) = lookup.share else {
        println!("  the model answered alone: its memory was not asked");
        return;
    };
    let alone = lookup.alone.first().map_or("nothing".into(), |class| {
        let name = printable_text(&class.class);
        format!("{name} {}", percent(class.probability.into()))
    });
    println!(
        "  memory: {} of the answer is that of {} neighbours; the model alone says {alone}",
        percent(weight.into()),
        lookup.neighbors.len()
    );
    let spoke = lookup.neighbors.iter().filter(|_| explain);
    for neighbor in spoke {
        let [class, source] = [&neighbor.label.class, &neighbor.label.source];
        println!(
            "    {:.3}  {}  {}  (id {})",
            neighbor.similarity,
            printable_text(class),
            printable_text(source),
            neighbor.label.id
        );
    }
}
