//! Which model, and how much it prunes: what `eval`, `infer` and `bench` take.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use apt_data::read_text;
use apt_inference::{Choice, Model, OpenOptions, imagenet_ids};
use apt_pruning_agent::{BudgetUse, PolicyConfig, Selection};
use apt_vit_model::{Precision, printable, printable_text};
use clap::{Args, ValueEnum};

use crate::device;
use crate::fit;
use crate::global::Global;
use crate::values::{probability, share};

/// Which model, and how much it prunes.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A run's folder, an exported folder, or published weights with a head
    #[arg(long, visible_alias = "model", value_name = "PATH")]
    pub run: PathBuf,
    /// Compute this share of the dense model's FLOPs [default: the first one that it was trained for]; adaptive agents
    /// are calibrated for it first, by `aptvit calibrate`
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub flops: Option<f64>,
    /// Another policy than the model's own, its weights fresh; `aptvit info --policies` lists them
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Images on which the policy's budget is fitted first, where it has one to fit (tome-threshold, tome-schedule):
    /// training images of a folder or archive, without labels
    #[arg(long, value_name = "PATH", requires = "flops")]
    pub fit_on: Option<PathBuf>,
    /// A token goes where its removal is more probable than this, without a budget [default: the run's]
    #[arg(long, value_name = "P", value_parser = probability, conflicts_with = "flops")]
    pub threshold: Option<f64>,
    /// Which checkpoint of a run
    #[arg(long, value_enum, default_value_t)]
    pub checkpoint: Which,
    /// What the model's classes are called, one a line in the order of its outputs; other names of a class before it,
    /// with tabs [default: as the run or the weights say; ImageNet-1k's of weights with 1000 classes that name none]
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
}

impl ModelArgs {
    /// Opens the model, on the chosen device.
    pub fn open(&self, global: &Global) -> Result<Model> {
        self.open_in(global.dtype)
    }

    /// The same in this precision; none is the model's own.
    pub fn open_in(&self, precision: Option<Precision>) -> Result<Model> {
        let device = device::open();
        let options = OpenOptions {
            checkpoint: self.checkpoint.into(),
            precision,
        };
        let mut model = Model::open_with(&self.run, options, &device)?;
        if let Some(file) = &self.classes {
            let names = self.class_names(&model)?;
            let last = names.into_iter().filter_map(|mut names| names.pop());
            model = model
                .with_class_names(last.collect())
                .with_context(|| printable(file))?;
        }
        if let Some(name) = &self.policy {
            let policy = PolicyConfig::named(name).context("--policy")?;
            match (policy.entry().budget, self.flops) {
                (BudgetUse::Impossible, Some(_)) => {
                    bail!("--policy {name}: removes nothing, so that it meets no --flops")
                }
                (BudgetUse::Needed, None) => {
                    bail!("--policy {name}: say how much it is to compute, as in --flops 0.5")
                }
                _ => model = model.with_policy(policy)?,
            }
            fit::warn_untaught(&model);
        }
        match (self.threshold, self.flops) {
            (Some(threshold), _) => {
                let policy = &model.description().policy;
                if !matches!(policy.without_budget(), Selection::Threshold { .. }) {
                    bail!(
                        "--threshold: the policy {} has none; use --flops",
                        policy.name()
                    );
                }
                model.select(Selection::Threshold { threshold });
            }
            (None, Some(share)) => {
                if let Some(path) = &self.fit_on {
                    fit::fit(&mut model, &fit::images(path)?, share)?;
                }
                model.prune_to(share)?;
                if self.policy.is_some() {
                    fit::warn_unfitted(&model, share);
                }
            }
            (None, None) => {
                let usual = model.selection_for(None)?;
                model.select(usual);
            }
        }
        Ok(model)
    }
}

impl ModelArgs {
    /// All names of each of the model's classes.
    pub fn class_names(&self, model: &Model) -> Result<Vec<Vec<String>>> {
        let Some(file) = &self.classes else {
            let names = model.class_names();
            let ids = imagenet_ids(names);
            let of_class = |(class, name): (usize, &String)| {
                let id = ids.as_ref().map(|ids| ids[class].to_string());
                id.into_iter().chain([name.clone()]).collect()
            };
            return Ok(names.iter().enumerate().map(of_class).collect());
        };
        read_classes(file)
    }
}

/// All names of each class in a file of `--classes`.
pub fn read_classes(file: &Path) -> Result<Vec<Vec<String>>> {
    parse_classes(&read_text(file).context("--classes")?)
        .map_err(|reason| anyhow!("--classes {}: {reason}", printable(file)))
}

/// All names of each class, a class a line, with tabs between its names; blank lines at the end are left out.
///
/// # Errors
///
/// Names the first line without a name, with an empty or an unprintable one, or with none that is this class's alone.
fn parse_classes(text: &str) -> Result<Vec<Vec<String>>, String> {
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.iter().rposition(|line| !line.trim().is_empty());
    let lines = &lines[..last.map_or(0, |last| last + 1)];
    let classes: Vec<Vec<String>> = lines
        .iter()
        .enumerate()
        .map(|(class, line)| {
            parse_names(line).map_err(|fault| format!("line {}{fault}", class + 1))
        })
        .collect::<Result<_, _>>()?;
    let mut classes_of: HashMap<&str, BTreeSet<usize>> = HashMap::new();
    for (class, names) in classes.iter().enumerate() {
        for name in names {
            classes_of.entry(name).or_default().insert(class);
        }
    }
    for (class, names) in classes.iter().enumerate() {
        let other = |name: &String| {
            let mut classes = classes_of.get(name.as_str())?.iter();
            classes.find(|&&other| other != class).copied()
        };
        // ImageNet has two classes called crane; other names of theirs tell them apart.
        let shared = names.iter().map(|name| Some((name, other(name)?)));
        let shared: Option<Vec<_>> = shared.collect();
        if let Some((name, other)) = shared.and_then(|mut shared| shared.pop()) {
            return Err(format!(
                "line {} has the name '{}', as line {} has: expected a name for each class that no other class has",
                class.max(other) + 1,
                printable_text(name),
                class.min(other) + 1
            ));
        }
    }
    Ok(classes)
}

/// The names of one class.
///
/// # Errors
///
/// Says what is wrong with them.
fn parse_names(line: &str) -> Result<Vec<String>, String> {
    if line.trim().is_empty() {
        return Err(" is blank: expected a class's name; blank lines may stand at the end".into());
    }
    let names: Vec<String> = line.split('\t').map(|name| name.trim().into()).collect();
    if names.iter().any(String::is_empty) {
        return Err(" has an empty name: expected one tab between two names of a class".into());
    }
    match names.iter().find(|name| name.contains(char::is_control)) {
        Some(name) => Err(format!(
            " has a control character in the name '{}': expected text",
            printable_text(name)
        )),
        None => Ok(names),
    }
}

/// Which of a run's checkpoints.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Which {
    /// Most accurate with the policy acting, on the held-out images
    #[default]
    BestPruned,
    /// Most accurate dense, on the held-out images
    BestDense,
    /// The newest
    Last,
}

impl From<Which> for Choice {
    fn from(which: Which) -> Self {
        match which {
            Which::BestPruned => Self::BestPruned,
            Which::BestDense => Self::BestDense,
            Which::Last => Self::Last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_at_the_end_of_a_classes_file_name_no_class() {
        let names = |text| parse_classes(text).unwrap();
        let expected = [vec!["n1", "cat"], vec!["dog"]];
        for text in [
            "n1\tcat\ndog",
            "n1\tcat\r\n dog \r\n",
            "n1\tcat\ndog\n\n \t\n\n",
        ] {
            assert_eq!(names(text), expected, "{text:?}");
        }
        assert!(names("\n\n").is_empty());
    }

    #[test]
    fn names_that_name_nothing_are_refused_by_their_line() {
        for (text, says) in [
            ("cat\n\ndog\n", "line 2 is blank"),
            ("cat\n\t\ndog\n", "line 2 is blank"),
            ("cat\nn2\t\tdog\n", "line 2 has an empty name"),
            ("cat\ndog\t\n", "line 2 has an empty name"),
            (
                "cat\0\ndog\n",
                r"line 1 has a control character in the name 'cat\u{0}'",
            ),
            ("cat\n\u{1b}[31mdog\n", r"the name '\u{1b}[31mdog'"),
        ] {
            let error = parse_classes(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn two_classes_of_one_name_are_refused_unless_another_name_tells_them_apart() {
        let error = parse_classes("cat\ndog\ncat\n").unwrap_err();
        assert!(
            error.contains("line 3 has the name 'cat', as line 1 has"),
            "{error}"
        );
        let birds_and_machines = "n02012849\tcrane\nn03126707\tcrane\n";
        assert_eq!(parse_classes(birds_and_machines).unwrap().len(), 2);
        // The first one has no name of its own.
        assert!(parse_classes("crane\nn03126707\tcrane\n").is_err());
        assert!(parse_classes("cat\tcat\ndog\n").is_ok());
    }
}
