//! Every policy and every algorithm, through a whole training of a tiny model with budgets.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_rl_trainer::sweep::{CellFolder, MeasuredOn, Stage, Sweep, SweptPolicy};
use apt_rl_trainer::{Choice, Outcome, PruningVit, RunFolder, resume, train};
use burn::nn::Linear;
use burn::prelude::*;

use common::{alone, config, final_weights, options, weights};

const EXACT: [&str; 4] = [
    "budget.flops=[0.8, 0.6]",
    "model.dropout=0.0",
    "data.size=32",
    "model.image_size=32",
];

#[test]
fn every_policy_trains_and_meets_its_first_budget() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    for name in SweptPolicy::known().filter(|name| *name != "dense") {
        let policy = SweptPolicy::parse(name).unwrap();
        let mut overrides = EXACT.to_vec();
        overrides.extend(policy.overrides.iter().map(String::as_str));
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
fn every_algorithm_teaches_the_agents_and_is_repeatable() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "counterfactual",
        "first-order",
        "pairs",
        "policy-gradient",
        "ppo",
        "dynamic-vit",
    ] {
        let policy = SweptPolicy::parse(name).unwrap();
        let mut overrides = EXACT.to_vec();
        overrides.extend(policy.overrides.iter().map(String::as_str));
        let config = config(&overrides);
        let before = PruningVit::new(&config, 10, &Device::default()).unwrap();
        let run = |place: &str| {
            let out = folder.path().join(format!("{name}-{place}"));
            train(config.clone(), &out, &options()).unwrap();
            out
        };
        let out = run("first");
        assert!(
            final_weights(&out) == final_weights(&run("second")),
            "{name}"
        );
        let run = RunFolder::open(&out).unwrap();
        let checkpoint = run.checkpoint(Choice::Last).unwrap();
        let after = run.load_model(&checkpoint, &Device::default()).unwrap();
        let agents = |model: &PruningVit| -> Vec<f32> {
            let of = |linear: &Linear| linear.weight.val().into_data();
            let agents = model.agents.agents.iter().map(|agent| of(&agent.fc));
            let predictors = model.agents.predictors.iter();
            let predictors = predictors.map(|predictor| of(&predictor.output));
            let pairs = model.agents.pairs.iter();
            let pairs = pairs.map(|agent| agent.output.val().into_data());
            let all: Vec<_> = agents.chain(predictors).chain(pairs).collect();
            all.iter().flat_map(|data| data.iter::<f32>()).collect()
        };
        assert!(
            agents(&before) != agents(&after),
            "{name}: agents learned nothing"
        );
    }
}

#[test]
fn distillation_changes_what_is_learned() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &str| {
        let mut overrides = EXACT.to_vec();
        overrides.extend(["policy.kind=random", more]);
        let out = folder.path().join(name);
        train(config(&overrides), &out, &options()).unwrap();
        final_weights(&out)
    };
    assert!(run("with", "train.distill=1.0") != run("without", "train.distill=0.0"));
}

#[test]
fn a_training_can_start_from_another_run() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let start = folder.path().join("start");
    train(config(&[]), &start, &options()).unwrap();
    let said = format!("model.start={}", start.display());
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
        let checkpoint = run.checkpoint(Choice::BestDense).unwrap();
        run.load_model(&checkpoint, &Device::default()).unwrap()
    };
    let (before, after) = (vit(&start), vit(&out));
    let head = |model: &PruningVit| model.vit.head.weight.val().into_data();
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
    let policies = ["dense", "random", "first-order"];
    let sweep = Sweep {
        start,
        policies: policies
            .map(|name| SweptPolicy::parse(name).unwrap())
            .to_vec(),
        budgets: vec![0.8, 0.6],
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
    assert_eq!(trained, ["random", "first-order"]);
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
    assert!(error.to_string().contains("train.held_out"), "{error}");
    cells.report("first-order").unwrap();
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
    assert!(parse(&["policy.kind=tome"]).contains("budget.flops"));
    assert!(parse(&["budget.flops=[1.5]"]).contains("1.5"));
    assert!(parse(&["algorithm.kind=ppo"]).contains("budget.flops"));
    let uniform = parse(&["algorithm.kind=dynamic-vit", "budget.flops=[0.5]"]);
    assert!(uniform.contains("policy.uniform"), "{uniform}");
    assert!(parse(&["algorithm.cuts=0"]).contains("algorithm.cuts"));
    let pairs = parse(&["agents.network=pair", "budget.flops=[0.5]"]);
    assert!(pairs.contains("policy.merge"), "{pairs}");
    let pairs = [
        "agents.network=pair",
        "policy.merge=matched",
        "budget.flops=[0.5]",
    ];
    assert!(parse(&pairs).contains("algorithm.first_order"));
    assert!(parse(&["policy.taper=0"]).contains("policy.taper"));
    assert!(parse(&["policy.priced=true"]).contains("policy.priced"));
    let near = parse(&["policy.merge=match"]);
    assert!(near.contains("matched"), "{near}");
}

#[test]
fn a_paused_training_with_a_budget_ends_where_an_unbroken_one_ends() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let first_order = SweptPolicy::parse("first-order").unwrap();
    let mut overrides = EXACT.to_vec();
    overrides.extend(first_order.overrides.iter().map(String::as_str));
    let [unbroken, broken] = ["unbroken", "broken"].map(|name| folder.path().join(name));
    train(config(&overrides), &unbroken, &options()).unwrap();
    let mut limited = options();
    limited.time_limit = Some(std::time::Duration::ZERO);
    let outcome = train(config(&overrides), &broken, &limited).unwrap();
    assert!(matches!(outcome, Outcome::Paused { .. }), "{outcome:?}");
    resume(&broken, &options()).unwrap();
    assert!(final_weights(&unbroken) == final_weights(&broken));
}
