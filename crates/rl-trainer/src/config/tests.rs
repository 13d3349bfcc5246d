use super::*;

const TEXT: &str = "[data]\nsource = \"shapes\"\n[train]\nsteps = 500\n";

fn message(text: &str, overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(|entry| entry.to_string()).collect();
    ExperimentConfig::parse(text, "x.toml", &overrides)
        .unwrap_err()
        .to_string()
}

#[test]
fn every_config_that_ships_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.display().to_string();
        ExperimentConfig::parse(&text, &name, &[]).unwrap();
        count += 1;
    }
    assert!(count > 3);
}

#[test]
fn overrides_reach_nested_fields() {
    let overrides = [
        "train.steps=1500".to_string(),
        "model.preset=vit-tiny32".to_string(),
    ];
    let config = ExperimentConfig::parse(TEXT, "x.toml", &overrides).unwrap();
    assert_eq!(config.train.steps, 1500);
    assert_eq!(config.model.preset, "vit-tiny32");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_valid_one() {
    let message = message(&TEXT.replace("steps", "stepz"), &[]);
    assert!(
        message.contains("x.toml") && message.contains("stepz"),
        "{message}"
    );
    assert!(message.contains("did you mean `steps`?"), "{message}");
}

#[test]
fn a_wrong_override_is_refused_by_its_name() {
    let unknown = message(TEXT, &["optimizer.learningrate=1"]);
    assert!(
        unknown.contains("--set optimizer.learningrate=1"),
        "{unknown}"
    );
    assert!(
        unknown.contains("did you mean `learning_rate`?"),
        "{unknown}"
    );
    let wrong_type = message(TEXT, &["train.steps=\"many\""]);
    assert!(
        wrong_type.contains("--set train.steps") && wrong_type.contains("many"),
        "{wrong_type}"
    );
    assert!(
        wrong_type.contains("expected a whole number"),
        "{wrong_type}"
    );
    assert!(message(TEXT, &["train.steps"]).contains("key=value"));
}

#[test]
fn a_list_is_no_table_of_keys() {
    for key in ["model", "optimizer", "input", "schedule", "train"] {
        let message = message(TEXT, &[&format!("{key}=[]")]);
        assert!(
            message.contains(&format!("{key} = []: expected a table of keys")),
            "{message}"
        );
    }
    let message = message(TEXT, &["input.normalization=[[0.5, 0.5, 0.5], [1, 1, 1]]"]);
    assert!(message.contains("expected a table of keys"), "{message}");
}

#[test]
fn a_number_that_is_none_is_refused_and_not_lost() {
    for entry in [
        "policy.layers=nan",
        "policy.layers=inf",
        "policy.layers=[nan]",
    ] {
        let message = message(TEXT, &[entry]);
        assert!(
            message.contains("policy.layers = ") && message.contains("a finite number"),
            "{message}"
        );
    }
    let message = message(TEXT, &["model.layer_scale=9223372036854775808"]);
    assert!(message.contains("no number of TOML"), "{message}");
}

#[test]
fn a_long_value_is_not_repeated_whole() {
    let entry = format!("train.steps={}", "x".repeat(100_000));
    assert!(message(TEXT, &[&entry]).len() < 2000);
}

#[test]
fn steps_that_do_not_fill_epochs_are_refused() {
    let message = message(TEXT, &["train.steps=501"]);
    assert!(message.contains("train.steps = 501"), "{message}");
}

#[test]
fn every_key_is_described_in_the_docs() {
    let docs = include_str!("../../../../docs/config.md");
    for section in [
        "",
        "input",
        "input.transform",
        "input.normalization",
        "model",
        "train",
        "optimizer",
        "schedule",
    ] {
        let header = match section {
            "" => String::new(),
            section => format!("[{section}]\n"),
        };
        let text = match section {
            "" => format!("no_such_key = 1\n{TEXT}"),
            "train" => TEXT.replace("steps", "no_such_key"),
            _ => format!("{TEXT}{header}no_such_key = 1\n"),
        };
        let message = message(&text, &[]);
        let keys: Vec<&str> = message
            .split_once("expected")
            .map(|(_, keys)| keys.split('`').skip(1).step_by(2).collect())
            .unwrap_or_default();
        assert!(keys.len() > 1, "{section}: {message}");
        let start = docs.find(&format!("`[{section}]`")).unwrap_or(0);
        for key in keys {
            let table = match section {
                "" if key == "policy" => "## `policy`".to_string(),
                "" => format!("`[{key}]`"),
                section => format!("`[{section}.{key}]`"),
            };
            let described =
                docs[start..].contains(&format!("| `{key}` |")) || docs.contains(&table);
            assert!(described, "[{section}] {key}");
        }
    }
}

#[test]
fn values_that_make_no_sense_are_refused_by_their_key() {
    for (key, value) in [
        ("input.train_images", "0"),
        ("input.test_images", "0"),
        ("optimizer.betas", "[0.9, 2]"),
        ("optimizer.momentum", "1.5"),
        ("optimizer.weight_decay", "-1"),
        ("optimizer.head_learning_rate", "0"),
    ] {
        let message = message(TEXT, &[&format!("{key}={value}")]);
        assert!(message.contains(&format!("{key} = ")), "{message}");
    }
}

#[test]
fn bad_images_stop_a_training_unless_the_config_says_otherwise() {
    use apt_data::OnBad;
    let config = ExperimentConfig::parse(TEXT, "x.toml", &[]).unwrap();
    assert_eq!(config.input.on_bad, OnBad::Fail);
    let skip = ["input.on_bad=skip".to_string()];
    let config = ExperimentConfig::parse(TEXT, "x.toml", &skip).unwrap();
    assert_eq!(config.input.on_bad, OnBad::Skip);
    let message = message(TEXT, &["input.on_bad=ignore"]);
    assert!(
        message.contains("`fail`") && message.contains("`skip`"),
        "{message}"
    );
}

#[test]
fn a_config_survives_being_written_and_read() {
    let config = ExperimentConfig::parse(TEXT, "x.toml", &[]).unwrap();
    let again = ExperimentConfig::parse(&config.to_toml().unwrap(), "y.toml", &[]).unwrap();
    assert_eq!(config, again);
}

#[test]
fn every_number_has_a_range() {
    let huge = "9223372036854775807";
    for key in [
        "train.steps",
        "train.batch_size",
        "train.grad_accumulation_steps",
        "train.eval_interval",
        "train.agent_interval",
        "train.dense_interval",
        "train.dense_steps",
        "train.agent_warmup_steps",
        "train.patience",
        "train.eval_batch_size",
        "train.num_workers",
        "train.freeze",
        "schedule.warmup_steps",
        "input.train_images",
        "input.val_images",
        "input.test_images",
        "data.train",
        "data.test",
        "model.image_size",
        "model.patch_size",
        "model.hidden_size",
        "model.num_layers",
        "model.num_heads",
        "model.mlp_dim",
    ] {
        let message = message(TEXT, &[&format!("{key}={huge}")]);
        let said = format!("config field {key} = {huge}: must be from ");
        assert!(message.contains(&said), "{message}");
    }
    for key in [
        "optimizer.learning_rate",
        "optimizer.head_learning_rate",
        "optimizer.agent_learning_rate",
        "optimizer.momentum",
        "optimizer.weight_decay",
        "train.distillation_weight",
        "train.max_grad_norm",
        "model.dropout",
        "model.layer_norm_eps",
        "model.layer_scale",
    ] {
        for value in ["nan", "inf", "-2000.0", "1e30"] {
            let message = message(TEXT, &[&format!("{key}={value}")]);
            assert!(
                message.contains(&format!("config field {key} = ")),
                "{value}: {message}"
            );
        }
    }
}

#[test]
fn sizes_are_checked_where_weights_bring_the_others() {
    let text = format!("{TEXT}[model]\npretrained = \"no/such.npz\"\n");
    let absurd = message(&text, &["model.num_layers=1000000"]);
    assert!(absurd.contains("config field model.num_layers"), "{absurd}");
    // Whether 30 pixels fit is for the weights' patches to say.
    let overrides = ["model.image_size=30".to_string()];
    ExperimentConfig::parse(&text, "x.toml", &overrides).unwrap();
}

#[test]
fn all_wrong_values_are_named_at_once() {
    let message = message(TEXT, &["train.steps=20", "train.dense_steps=30"]);
    assert!(message.contains("train.steps = 20"), "{message}");
    assert!(message.contains("train.dense_steps = 30"), "{message}");
    assert_eq!(message.lines().count(), 2, "{message}");
}

#[test]
fn policies_are_checked_before_a_model_is_built() {
    for (layers, range) in [
        ("[]", "from 0 to 11"),
        ("[5, 2]", "from 0 to 11"),
        ("[2, 12]", "from 0 to 11"),
    ] {
        let message = message(TEXT, &["policy=apt", &format!("policy.layers={layers}")]);
        let said = format!("config field policy.layers = {layers}: must be ascending");
        assert!(
            message.starts_with(&said) && message.contains(range),
            "{message}"
        );
    }
    let threshold = message(TEXT, &["policy=apt", "policy.threshold=1.5"]);
    let said = "config field policy.threshold = 1.5: must be from 0 to 1";
    assert_eq!(threshold, said);
}

#[test]
fn nothing_far_away_is_proposed() {
    let far = message(TEXT, &["data.colour=1"]);
    assert!(
        far.contains("`colour`") && far.contains("`size`") && !far.contains("did you mean"),
        "{far}"
    );
    let near = message(TEXT, &["data.tset=1"]);
    assert!(near.contains("did you mean `test`?"), "{near}");
}

#[test]
fn keys_belong_to_their_source() {
    let text = "[data]\nsource = \"folder\"\nsize = 32\n";
    let of_another = message(text, &[]);
    assert!(
        of_another.contains("x.toml: the key `data.size` belongs to the source \"shapes\"")
            && of_another.contains("test_fraction"),
        "{of_another}"
    );
    let text = TEXT.replace("\"shapes\"", "\"shapes\"\nsize = 64");
    let overrides = ["data.source=folder".to_string()];
    let config = ExperimentConfig::parse(&text, "x.toml", &overrides).unwrap();
    assert!(matches!(config.data, DataSource::Folder { .. }));
    // The same source keeps what was said of it.
    let overrides = ["data.source=shapes".to_string()];
    let config = ExperimentConfig::parse(&text, "x.toml", &overrides).unwrap();
    assert!(matches!(config.data, DataSource::Shapes { size: 64, .. }));
}

#[test]
fn every_source_has_its_keys() {
    let sources = parse::sources();
    let names: Vec<&str> = sources.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["shapes", "cifar10", "cifar100", "folder"]);
    assert!(sources[3].1.contains(&"test_fraction".to_string()));
}

#[test]
fn a_warm_up_fits_into_the_training() {
    let warmup = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|entry| entry.to_string()).collect();
        let config = ExperimentConfig::parse(TEXT, "x.toml", &overrides).unwrap();
        config.schedule.warmup_steps
    };
    assert_eq!(warmup(&["train.steps=50000"]), 500);
    assert_eq!(warmup(&["train.steps=1000"]), 100);
    assert_eq!(warmup(&["schedule.warmup_steps=400"]), 400);
    assert_eq!(warmup(&["schedule.warmup_steps=600"]), 500);
}
