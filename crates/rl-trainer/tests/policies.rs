//! Every policy and every algorithm, through a whole training of a tiny model with budgets.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_inference::{Choice, PruningVit};
use apt_pruning_agent::policies;
use apt_rl_trainer::sweep::{CellFolder, MeasuredOn, Stage, Sweep, SweptPolicy};
use apt_rl_trainer::{Outcome, RunFolder, resume, train};
use burn::prelude::*;

use common::{alone, config, final_weights, options, weights};

const EXACT: [&str; 4] = [
    "flops=[0.8, 0.6]",
    "model.dropout=0.0",
    "data.size=32",
    "model.image_size=32",
];

/// Every policy that learns, with every algorithm by which it can.
fn every_learner() -> Vec<(&'static str, &'static str)> {
    let learners = policies().into_iter().flat_map(|entry| {
        let algorithms = entry.algorithms.iter();
        algorithms.map(move |algorithm| (entry.name, *algorithm))
    });
    learners.collect()
}

#[test]
fn every_policy_trains_and_meets_its_first_budget() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let known = policies();
    let known = known.iter().filter(|entry| !entry.for_frozen);
    let known = known.map(|entry| entry.name);
    for name in known.filter(|name| *name != "dense") {
        let said = format!("policy={name}");
        let mut overrides = EXACT.to_vec();
        overrides.push(&said);
        let out = folder.path().join(name);
        let outcome = train(config(&overrides), &out, &options()).unwrap();
        let Outcome::Finished(summary) = outcome else {
            panic!("{name}: {outcome:?}");
        };
        // Agents' thresholds are fitted on 20 other images.
        assert!(
            (summary.flops_share - 0.8).abs() < 0.06,
            "{name}: {}",
            summary.flops_share
        );
    }
}

#[test]
fn every_algorithm_is_repeatable() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    for (policy, algorithm) in every_learner() {
        let name = format!("{policy}-{algorithm}");
        let said = [
            format!("policy={policy}"),
            format!("policy.algorithm={algorithm}"),
        ];
        let mut overrides = EXACT.to_vec();
        overrides.extend(said.iter().map(String::as_str));
        let run = |place: &str| {
            let out = folder.path().join(format!("{name}-{place}"));
            train(config(&overrides), &out, &options()).unwrap();
            final_weights(&out)
        };
        assert!(run("first") == run("second"), "{name}");
    }
}

#[test]
fn distillation_changes_what_is_learned() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &str| {
        let mut overrides = EXACT.to_vec();
        overrides.extend(["policy=random", more]);
        let out = folder.path().join(name);
        train(config(&overrides), &out, &options()).unwrap();
        final_weights(&out)
    };
    assert!(
        run("with", "train.distillation_weight=1.0")
            != run("without", "train.distillation_weight=0.0")
    );
}

#[test]
fn a_training_can_start_from_another_run() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let start = folder.path().join("start");
    train(config(&[]), &start, &options()).unwrap();
    let said = format!("model.init_from_run={}", start.display());
    // Nothing is learned: what comes out is what went in, except for the agents.
    let still = [
        "optimizer.learning_rate=1e-30",
        "optimizer.weight_decay=0.0",
        "seed=9",
    ];
    let out = folder.path().join("out");
    let config = config(&[&[said.as_str()], &still[..]].concat());
    train(config, &out, &options()).unwrap();
    let vit = |path: &std::path::Path| {
        let run = RunFolder::open(path).unwrap();
        let checkpoint = run.checkpoints().choose(Choice::BestDense).unwrap();
        run.load_model(&checkpoint, &Device::default()).unwrap()
    };
    let (before, after) = (vit(&start), vit(&out));
    let head = |model: &PruningVit| model.vit.head.as_ref().unwrap().weight.val().into_data();
    assert_eq!(head(&before), head(&after));
    assert!(
        weights(&before) != weights(&after),
        "the agents are the same"
    );
}

#[test]
fn a_sweep_is_measured_cell_by_cell_and_goes_on_where_it_stopped() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let start = folder.path().join("start");
    let sizes = ["data.size=32", "model.image_size=32"];
    train(config(&sizes), &start, &options()).unwrap();
    let policies = ["dense", "random", "attentive"];
    let sweep = Sweep {
        start,
        policies: policies
            .map(|name| SweptPolicy::parse(name).unwrap())
            .to_vec(),
        flops: vec![0.8, 0.6],
        seeds: vec![1],
        passes: 48,
        overrides: vec!["train.eval_batch_size=20".into()],
        measured_on: MeasuredOn::Test,
    };
    let cells = CellFolder::new(folder.path().join("sweep"));
    let stopped = options();
    // It is asked to stop when the second training begins.
    let stop = stopped.stop.clone();
    let done = sweep.run(&cells, &stopped, |stage| {
        if let Stage::Training("random", ..) = stage {
            stop.stop();
        }
    });
    assert!(!done.unwrap());
    assert!(cells.is_done("dense", 1.0, 1) && !cells.is_done("random", 0.8, 1));
    let mut trained = Vec::new();
    let done = sweep.run(&cells, &options(), |stage| {
        if let Stage::Training(name, ..) = stage {
            trained.push(name.to_string());
        }
    });
    assert!(done.unwrap());
    assert_eq!(trained, ["random", "attentive"]);
    let all = cells.all().unwrap();
    assert_eq!(all.len(), 5);
    assert!(
        all.iter()
            .all(|cell| cell.image_passes == 48 && cell.correct.len() == 20)
    );
    // All that was held out is needed to meet budgets by.
    let held_out = Sweep {
        measured_on: MeasuredOn::HeldOut,
        ..sweep
    };
    let other = CellFolder::new(folder.path().join("held-out"));
    let error = held_out.run(&other, &options(), |_| ()).unwrap_err();
    assert!(error.to_string().contains("input.val_images"), "{error}");
    cells.report("attentive").unwrap();
    let rows = std::fs::read_to_string(cells.path().join("rows.csv")).unwrap();
    assert_eq!(rows.lines().count(), 6, "{rows}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let _alone = alone();
    let parse = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
        let text = "[data]\nsource = \"shapes\"\n";
        let parsed = apt_rl_trainer::ExperimentConfig::parse(text, "x.toml", &overrides);
        parsed.unwrap_err().to_string()
    };
    let no_budget = parse(&["policy=tome"]);
    assert!(
        no_budget.contains("flops = []") && no_budget.contains("flops = [0.5]"),
        "{no_budget}"
    );
    assert!(parse(&["flops=[1.5]"]).contains("1.5"));
    let nothing_to_learn = parse(&["policy=tome", "policy.algorithm=ppo"]);
    assert!(
        nothing_to_learn.contains("nothing to learn"),
        "{nothing_to_learn}"
    );
    let of_others = parse(&["policy=pairs", "policy.algorithm=ppo"]);
    assert!(
        of_others.contains("expected one of `first-order`") && !of_others.contains("did you mean"),
        "{of_others}"
    );
    let no_setting = parse(&["policy=pairs", "policy.threshold=0.5"]);
    assert!(
        no_setting.contains("`threshold`") && no_setting.contains("`layers`"),
        "{no_setting}"
    );
    let group = [
        "policy=attentive",
        "policy.algorithm=ppo",
        "policy.algorithm.group_size=1",
    ];
    assert!(parse(&group).contains("group_size = 1"));
    let near = parse(&["policy=tomme"]);
    assert!(near.contains("did you mean `tome`?"), "{near}");
    let old = parse(&["train.held_out=5"]);
    assert!(old.contains("is now `input.val_images`"), "{old}");
    let checkpointing = [
        "policy=pairs",
        "flops=[0.5]",
        "train.gradient_checkpointing=true",
    ];
    assert!(parse(&checkpointing).contains("train.gradient_checkpointing"));
}

#[test]
fn the_two_lines_that_a_user_writes_are_enough() {
    let text = "policy = \"pairs\"\nflops = [0.5]\n[data]\nsource = \"shapes\"\n";
    let config = apt_rl_trainer::ExperimentConfig::parse(text, "x.toml", &[]).unwrap();
    assert_eq!(config.policy.algorithm.unwrap().entry().name, "first-order");
}

#[test]
fn a_paused_training_with_a_budget_ends_where_an_unbroken_one_ends() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut overrides = EXACT.to_vec();
    overrides.push("policy=attentive");
    let [unbroken, broken] = ["unbroken", "broken"].map(|name| folder.path().join(name));
    train(config(&overrides), &unbroken, &options()).unwrap();
    let mut limited = options();
    limited.time_limit = Some(std::time::Duration::ZERO);
    let outcome = train(config(&overrides), &broken, &limited).unwrap();
    assert!(matches!(outcome, Outcome::Paused { .. }), "{outcome:?}");
    resume(&broken, &options()).unwrap();
    assert!(final_weights(&unbroken) == final_weights(&broken));
}

#[test]
fn a_training_refuses_what_is_taught_on_a_frozen_model_and_says_how() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["park", "apt-plus", "early-exit"] {
        let said = format!("policy={name}");
        let mut overrides = EXACT.to_vec();
        overrides.push(&said);
        let error = train(config(&overrides), &folder.path().join("run"), &options());
        let message = error.unwrap_err().to_string();
        let advice = format!("aptvit prune --model RUN --policy {name}");
        assert!(message.contains(&advice), "{message}");
    }
}
