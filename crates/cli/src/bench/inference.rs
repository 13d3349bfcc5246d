//! `aptvit bench`: forward passes, dense and pruned.

use std::cell::RefCell;

use anyhow::Result;
use apt_pruning_agent::Selection;
use apt_rl_trainer::sweep::DENSE;
use apt_vit_model::{ExecutionMode, LayerTrace, RunSettings, TokenReducer, VitOutput};
use serde::Serialize;

use super::args::Bench;
use super::clock::{self, Case};
use super::output::{bench_bar, print_lines};
use super::subject::{Removed, Subject, Timed, USUAL_BATCH};
use crate::device;
use crate::global::Global;
use crate::table::{count, percent, table};

/// A line of the result.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    timed: Timed,
    mode: &'static str,
    /// Who decided; absent where the plain agents of a preset did.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    /// The share of the dense FLOPs that was asked for, if any was.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_flops: Option<f64>,
    /// Passes that were enqueued before one wait.
    in_flight: usize,
    /// Mean over the images, CLS counted, after each layer in which the policy acted.
    tokens_per_layer: Vec<f64>,
    flops_per_image: f64,
    /// Counted: of the dense FLOPs, the policy's own included.
    flops_share: f64,
    /// Timed: dense over this mode, the median of the ratios of each round.
    speedup: f64,
    /// Counted: FLOPs of dense over those of this mode, the policy's own included.
    theoretical_speedup: f64,
    /// `speedup / theoretical_speedup`
    realized: f64,
}

/// A way to run the model.
struct Way<'a> {
    mode: &'static str,
    target_flops: Option<f64>,
    /// Who removes; none where nothing is removed.
    reducer: Option<Box<dyn TokenReducer + 'a>>,
}

impl Way<'_> {
    const DENSE: Self = Self {
        mode: "dense",
        target_flops: None,
        reducer: None,
    };

    fn settings(&self) -> RunSettings<'_> {
        match &self.reducer {
            Some(reducer) => RunSettings {
                mode: ExecutionMode::Drop,
                reducer: Some(&**reducer),
            },
            None => RunSettings::DENSE,
        }
    }
}

pub fn run(args: &Bench, global: &Global) -> Result<()> {
    let device = device::open();
    let mut subject = Subject::new(args, global, &device)?;
    subject.model = subject.model.prepack();
    device.seed(args.seed);
    let (batches, effort) = (args.batches(USUAL_BATCH), args.effort());
    let bar = bench_bar(
        &effort,
        batches.len() * ways(&subject, 1, args.ragged)?.len(),
    );
    let mut rows = Vec::new();
    for batch in batches {
        let ways = ways(&subject, batch, args.ragged)?;
        let traces = vec![RefCell::new(Vec::new()); ways.len()];
        let images = subject.images(batch, &device);
        let cases = ways.iter().zip(&traces).map(|(way, trace)| {
            let images = images.clone();
            let vit = &subject.model.vit;
            let pass = move || vit.forward(images.clone(), way.settings());
            Case::new(way.mode, move || {
                // The host goes on while a GPU computes.
                let outputs: Vec<VitOutput> = (0..args.in_flight).map(|_| pass()).collect();
                for output in outputs {
                    output.logits.into_data();
                    *trace.borrow_mut() = output.trace;
                }
                Ok(())
            })
            .of_passes(args.in_flight)
        });
        let times = clock::time(&mut cases.collect::<Vec<_>>(), &effort, &bar)?;
        let dense = subject.flops(&[], batch);
        for ((way, own), trace) in ways.iter().zip(&times).zip(traces) {
            let trace = trace.into_inner();
            let flops = subject.flops(&trace, batch);
            let (speedup, theoretical) = (own.speedup_over(&times[0]), dense / flops);
            rows.push(Row {
                timed: subject.timed(batch, own),
                mode: way.mode,
                policy: policy_of(way, &subject),
                target_flops: way.target_flops,
                in_flight: args.in_flight,
                tokens_per_layer: trace.iter().map(|entry| mean_left(entry, batch)).collect(),
                flops_per_image: flops,
                flops_share: flops / dense,
                speedup,
                theoretical_speedup: theoretical,
                realized: speedup / theoretical,
            });
        }
    }
    bar.finish_and_clear();
    if global.json {
        print_lines(&rows);
    } else {
        print_table(&rows);
    }
    Ok(())
}

/// Dense first, then what is removed from batches of that size, `ragged` too if it is asked for and images may
/// keep different numbers.
fn ways(subject: &Subject, batch: usize, ragged: bool) -> Result<Vec<Way<'_>>> {
    let mut ways = vec![Way::DENSE];
    let (model, patches) = (&subject.model, subject.model.config().num_patches());
    let seeds: Vec<u64> = (0..batch as u64).collect();
    let mut push = |mode, target_flops, selection: &Selection| {
        ways.push(Way {
            mode,
            target_flops,
            reducer: Some(model.policy.reducer(selection, &seeds)),
        });
    };
    match &subject.removed {
        Removed::Nothing => (),
        Removed::Rates(rates) => {
            push("drop", None, &Selection::at_rates(patches, rates));
            if ragged {
                push(
                    "drop-ragged",
                    None,
                    &Selection::ragged(patches, batch, rates),
                );
            }
        }
        Removed::Selected(selected) => {
            for (share, selection) in selected {
                push("drop", Some(*share), selection);
            }
        }
        Removed::ToCompute(shares) => {
            for &share in shares {
                let kept = model.kept_for(share)?;
                let selection = Selection::Kept { kept: kept.clone() };
                push("drop", Some(share), &selection);
                if ragged && model.leaves_ragged() {
                    push("drop-ragged", Some(share), &Selection::KeptOfBatch { kept });
                }
            }
        }
    }
    Ok(ways)
}

fn policy_of(way: &Way<'_>, subject: &Subject) -> Option<String> {
    let policy = subject.policy.clone()?;
    Some(match way.reducer {
        Some(_) => policy,
        None => DENSE.to_string(),
    })
}

fn mean_left(entry: &LayerTrace, batch: usize) -> f64 {
    entry.left.iter().sum::<usize>() as f64 / batch as f64
}

fn print_table(rows: &[Row]) {
    let mut lines = table(&[
        "mode",
        "batch",
        "tokens",
        "images/s",
        "ms/image",
        "min",
        "max",
        "FLOPs/image",
        "speed-up",
        "counted",
        "realized",
        "peak MiB",
    ]);
    for row in rows {
        let timed = &row.timed;
        lines.add_row([
            row.title(),
            timed.batch.to_string(),
            tokens(&row.tokens_per_layer),
            format!("{:.2}", timed.images_per_s),
            format!("{:.2}", timed.ms_per_image.median),
            format!("{:.2}", timed.ms_per_image.min),
            format!("{:.2}", timed.ms_per_image.max),
            count(row.flops_per_image),
            format!("{:.3}", row.speedup),
            format!("{:.3}", row.theoretical_speedup),
            percent(row.realized),
            timed.peak(),
        ]);
    }
    if let Some(row) = rows.first() {
        let in_flight = match row.in_flight {
            1 => String::new(),
            passes => format!(", {passes} passes in flight"),
        };
        println!("{}{in_flight}", row.timed.title());
    }
    println!("{lines}");
}

impl Row {
    /// `drop`, or `drop, tome at 0.5`.
    fn title(&self) -> String {
        match (&self.policy, self.target_flops) {
            (Some(policy), Some(share)) => format!("{}, {policy} at {share}", self.mode),
            _ => self.mode.to_string(),
        }
    }
}

/// How many are left, layer by layer; of many layers, the first and the last.
fn tokens(per_layer: &[f64]) -> String {
    let shown: Vec<String> = per_layer.iter().map(|n| format!("{n:.0}")).collect();
    match shown.as_slice() {
        [first, .., last] if shown.len() > 4 => format!("{first} .. {last}"),
        all => all.join(" "),
    }
}
