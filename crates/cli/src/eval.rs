//! `aptvit eval`

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use apt_data::{
    CifarLabels, DataSource, ImageDataset, LoadOptions, OnBad, PatchCorruption, Progress,
};
use apt_inference::{Fidelity, ModelSource};
use apt_rl_trainer::{Evaluation, EvaluationSettings, RunFolder, evaluate};
use apt_vit_model::{ExecutionMode, Precision, printable, printable_text};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use crate::global::Global;
use crate::model_args::ModelArgs;
use crate::progress_bar::progress_bar;
use crate::selection::in_words;
use crate::table::{count, percent, table};
use crate::values::{at_least_one, batch_size};
use crate::{End, device};

/// Images of a forward pass, where no run says it.
const BATCH: usize = 64;
/// As many classes are shown.
const MOST_CLASSES: usize = 20;

const EXAMPLES: &str = "\
Examples:
  aptvit eval --run runs/mine
  aptvit eval --run runs/mine --mode drop --json
  aptvit eval --run runs/mine --flops 0.5
  aptvit eval --run runs/apt --threshold 0.4               the published agents have a threshold
  aptvit eval --run exported --data pets/                  an exported folder, on your own images
  aptvit eval --model deit.safetensors --policy tome --flops 0.6 --data imagenet/val
  aptvit eval --model deit.safetensors --policy tome --flops 0.5 --data photos/      no labels: equal answers alone
  aptvit eval --model deit.safetensors --dtype int8 --against-f32 --data imagenet/val  what integers change
  aptvit eval --run runs/mine --corrupt noise:0.25         a quarter of each image's patches are noise
  aptvit eval --model deit.safetensors --policy tome-threshold --flops 0.5 --fit-on imagenet/train --data imagenet/val";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Eval {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What happens to removed tokens [default: dense and drop, in turn]
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Data file or folder: its test split, else its validation split, else all of it; classes are compared by name.
    /// Pictures that stand in no folder of a class have no labels: dense and pruned answers are compared alone
    /// [default: the run's]
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Take folders for no classes: dense and pruned answers are compared alone
    #[arg(long)]
    pub unlabelled: bool,
    /// Compare all answers with those of the dense model in 32-bit floats, which are computed first, dense and
    /// pruned; so you see what --dtype changes
    #[arg(long)]
    pub against_f32: bool,
    /// Images of a forward pass [default: the run's]
    #[arg(long, value_name = "N", value_parser = batch_size)]
    pub batch_size: Option<usize>,
    /// What happens where pictures cannot be read
    #[arg(long, value_enum, default_value_t)]
    pub on_bad: BadPictures,
    /// Replace patches of every image by what does not belong there, KIND:SHARE: noise, occluder or foreign (of another image).
    /// Answers are compared with those to the images as they were [default: as the run's config says, of its own images]
    #[arg(long, value_name = "KIND:SHARE")]
    pub corrupt: Option<PatchCorruption>,
    /// Measure only the first so many test images
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub limit: Option<usize>,
}

/// What happens where pictures cannot be read.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum BadPictures {
    /// The first one ends the evaluation
    #[default]
    Fail,
    /// They are left out, and named
    Skip,
}

impl From<BadPictures> for OnBad {
    fn from(bad: BadPictures) -> Self {
        match bad {
            BadPictures::Fail => Self::Fail,
            BadPictures::Skip => Self::Skip,
        }
    }
}

/// What happens to removed tokens.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Mode {
    /// Nothing is removed
    Dense,
    /// They stay, but nothing attends to them
    Mask,
    /// They leave the tensor
    Drop,
}

impl From<Mode> for ExecutionMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Dense => Self::Dense,
            Mode::Mask => Self::Mask,
            Mode::Drop => Self::Drop,
        }
    }
}

pub fn run(args: &Eval, global: &Global) -> Result<End> {
    let device = device::open();
    let model = args.model.open(global)?;
    let path = &args.model.run;
    let run = match model.source() {
        ModelSource::Run => Some(RunFolder::open(path)?),
        ModelSource::Export | ModelSource::Weights => None,
    };
    // CIFAR-100 has labels of two kinds; a model of 20 classes knows the coarse ones.
    let labels = if model.class_names().len() == 20 {
        CifarLabels::Coarse
    } else {
        CifarLabels::Fine
    };
    let (test, from) = test_images(args, run.as_ref(), labels)?;
    let has_classes = !model.class_names().is_empty();
    let test = if args.unlabelled || !test.is_labelled() || !has_classes {
        test.without_labels()
    } else {
        test.with_classes(&args.model.class_names(&model)?)
            .with_context(|| {
                format!(
                    "{}, where --unlabelled compares dense and pruned answers alone",
                    printable_text(&from)
                )
            })?
    };
    let test = match args.corrupt {
        Some(corruption) => test.corrupted(corruption, model.pruning().config().grid()),
        None => test,
    };
    let corruption = test.corruption();
    let modes = match args.mode {
        Some(mode) => vec![mode.into()],
        None => vec![ExecutionMode::Dense, ExecutionMode::Drop],
    };
    let usual = run
        .as_ref()
        .map_or(BATCH, |run| run.config.train.eval_batch_size);
    let batch_size = args.batch_size.unwrap_or(usual);
    let reference = if args.against_f32 {
        Some(args.model.open_in(Some(Precision::F32))?.pruning().clone())
    } else {
        None
    };
    let settings = EvaluationSettings {
        reference,
        ..EvaluationSettings::for_model(&model, model.selection().clone(), batch_size)
    };
    let bar = progress_bar(test.len() as u64, "images");
    let done = |images: usize| bar.set_position(images as u64);
    let evaluations = evaluate(model.pruning(), &test, &modes, &settings, &device, done)?;
    bar.finish_and_clear();

    if global.json {
        let mut result = json!({
            "run": path,
            "checkpoint": model.checkpoint(),
            "policy": model.description().policy.name(),
            "batch_size": settings.batch_size,
            "data": from,
            "images": test.len(),
            "labelled": test.is_labelled(),
            "corrupted": corruption.map(|corruption| corruption.to_string()),
            "evaluations": evaluations,
        });
        // "threshold", "scores" or "kept".
        if let (Some(fields), Ok(Value::Object(selection))) = (
            result.as_object_mut(),
            serde_json::to_value(&settings.selection),
        ) {
            fields.extend(selection);
        }
        println!("{result}");
    } else {
        let checkpoint = match model.checkpoint() {
            "" => String::new(),
            name => format!(", checkpoint of {name}"),
        };
        let policy = model.description().policy.name();
        let removed = in_words(&settings.selection);
        println!("{}{checkpoint}, {policy}, {removed}", printable(path));
        if test.is_labelled() {
            println!(
                "{} images of {} of its {} classes, from {}",
                test.len(),
                shown_classes(&test),
                test.num_classes(),
                printable_text(&from)
            );
        } else {
            println!(
                "{} images without labels, from {}",
                test.len(),
                printable_text(&from)
            );
        }
        if let Some(corruption) = corruption {
            println!("patches of each are replaced: {corruption}");
        }
        let references = evaluations.len() - modes.len();
        print(&evaluations, references, corruption.is_some());
    }
    Ok(End::Done)
}

/// The test images of the run, or what the user gives, and where they are.
fn test_images(
    args: &Eval,
    run: Option<&RunFolder>,
    labels: CifarLabels,
) -> Result<(ImageDataset, String)> {
    let options = LoadOptions {
        progress: Progress::Bar,
        on_bad: args.on_bad.into(),
    };
    let (test, from) = match (run, &args.data) {
        (_, Some(data)) => DataSource::load_to_measure(data, labels, options)?,
        (Some(run), None) => {
            let data = run.description().data.as_deref();
            let test = run
                .config
                .corrupted(run.config.data.load(data, options)?.test)?;
            let limit = run.config.input.test_images.unwrap_or(test.len());
            let from = data.map_or("the run's data".into(), |data| data.display().to_string());
            (test.take(limit), format!("{from}, its test images"))
        }
        (None, None) => {
            bail!("--data: only a run knows which images to measure on; say where they are")
        }
    };
    let limit = args.limit.unwrap_or(test.len());
    Ok((test.take(limit), from))
}

/// How many of the classes have an image.
fn shown_classes(images: &ImageDataset) -> usize {
    let labels: BTreeSet<usize> = (0..images.len()).map(|image| images.label(image)).collect();
    labels.len()
}

/// The first `references` are those of the same model in 32-bit floats. `corrupted`: dense answers to whole images are compared with.
fn print(evaluations: &[Evaluation], references: usize, corrupted: bool) {
    let fidelities = evaluations
        .iter()
        .filter_map(|found| found.fidelity.as_ref());
    let features = fidelities
        .clone()
        .any(|fidelity| fidelity.cosine().is_some());
    let mut rows = table(&[
        "mode",
        "dtype",
        "accuracy",
        "equal answers",
        if features { "cosine" } else { "KL" },
        "FLOPs/image",
        "FLOPs share",
        "images/s",
    ]);
    for evaluation in evaluations {
        let fidelity = evaluation.fidelity.as_ref();
        let equal = fidelity.and_then(Fidelity::equal_answers);
        let moved = fidelity.and_then(|fidelity| fidelity.kl().or(fidelity.cosine()));
        rows.add_row([
            evaluation.mode.to_string(),
            evaluation.dtype.to_string(),
            evaluation.accuracy.map_or("-".into(), percent),
            equal.map_or("-".into(), percent),
            moved.map_or("-".into(), |moved| format!("{moved:.4}")),
            count(evaluation.flops_per_image),
            percent(evaluation.flops_share),
            format!("{:.1}", evaluation.images_per_s),
        ]);
    }
    println!("{rows}");
    if fidelities.count() > 0 {
        let dense = if references > 0 {
            "dense model in f32"
        } else {
            "dense model"
        };
        let said = if features {
            "cosine of features"
        } else {
            "equal answers and KL(dense || this), in nats"
        };
        if corrupted {
            println!("{said}: to the {dense}'s answers to the images as they were");
        } else {
            println!("{said}: of the same images, to the {dense}");
        }
    }
    let (references, own) = evaluations.split_at(references);
    for reference in references {
        let mut own = own.iter().filter(|own| own.mode == reference.mode);
        if let Some((own, (points, interval))) =
            own.find_map(|own| Some((own, own.accuracy_after(reference)?)))
        {
            println!(
                "accuracy of {} in {} less the same in f32, image by image: {points:+.2} points, 95 % interval ± \
                 {interval:.2}",
                own.mode, own.dtype
            );
        }
    }
    for evaluation in evaluations {
        print_layers(evaluation);
    }
    print_classes(evaluations);
}

/// What the policy's blocks left.
fn print_layers(evaluation: &Evaluation) {
    let layers = &evaluation.layers;
    let Some(first) = layers.first() else {
        return;
    };
    let mut header = vec![evaluation.mode, "tokens", "keep rate"];
    if first.foreground_kept.is_some() {
        header.extend(["foreground", "background"]);
    }
    let corrupted = layers.iter().any(|layer| layer.corrupted_recall.is_some());
    if corrupted {
        header.extend(["corrupted gone", "of what is gone"]);
    }
    let mut rows = table(&header);
    for layer in layers {
        let mut row = vec![
            format!("after block {}", layer.layer),
            format!("{:.1}", layer.tokens),
            percent(layer.keep_rate),
        ];
        let known = |share: Option<f64>| share.map_or("-".into(), percent);
        if first.foreground_kept.is_some() {
            row.extend([layer.foreground_kept, layer.background_kept].map(known));
        }
        if corrupted {
            row.extend([layer.corrupted_recall, layer.corrupted_precision].map(known));
        }
        rows.add_row(row);
    }
    println!("{rows}");
}

/// The accuracies by class; of many classes, of those that lost most.
fn print_classes(evaluations: &[Evaluation]) {
    let (Some(first), Some(last)) = (evaluations.first(), evaluations.last()) else {
        return;
    };
    let mut classes: Vec<usize> = (0..first.per_class.len()).collect();
    classes.retain(|&class| first.per_class[class].images > 0);
    let all = classes.len();
    if all == 0 {
        return;
    }
    if all > MOST_CLASSES {
        let right = |evaluation: &Evaluation, class: usize| {
            let class = &evaluation.per_class[class];
            class.accuracy * class.images as f64
        };
        let lost = |&class: &usize| right(first, class) - right(last, class);
        classes.sort_by(|a, b| lost(b).total_cmp(&lost(a)));
        classes.truncate(MOST_CLASSES / 2);
    }
    let mut header = vec!["class", "images"];
    let names = evaluations.iter();
    let names: Vec<String> = names.map(|e| format!("{}, {}", e.mode, e.dtype)).collect();
    header.extend(names.iter().map(String::as_str));
    let mut rows = table(&header);
    for &class in &classes {
        let own = &first.per_class[class];
        let mut row = vec![printable_text(&own.class), own.images.to_string()];
        let accuracies = evaluations.iter();
        row.extend(accuracies.map(|e| percent(e.per_class[class].accuracy)));
        rows.add_row(row);
    }
    println!("{rows}");
    if classes.len() < all {
        println!(
            "{} of {all} classes, those that lost most images; --json has all",
            classes.len()
        );
    }
}
