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
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
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
fn a_config_survives_being_written_and_read() {
    let config = ExperimentConfig::parse(TEXT, "x.toml", &[]).unwrap();
    let again = ExperimentConfig::parse(&config.to_toml().unwrap(), "y.toml", &[]).unwrap();
    assert_eq!(config, again);
}
