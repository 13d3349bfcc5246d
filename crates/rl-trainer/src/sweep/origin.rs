use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::write;
use super::{MeasuredOn, Sweep};
use crate::TrainerError;
use crate::run_folder::to_json;

/// What all cells of a folder have in common, as `sweep.json` keeps it: cells of another start or of other
/// settings are not to be compared with them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Origin {
    start: PathBuf,
    passes: usize,
    budgets: Vec<f64>,
    overrides: Vec<String>,
    measured_on: MeasuredOn,
    /// By name, what each policy's config says.
    policies: BTreeMap<String, Vec<String>>,
}

impl Origin {
    fn of(sweep: &Sweep) -> Self {
        let policies = sweep.policies.iter();
        Self {
            start: sweep.start.clone(),
            passes: sweep.passes,
            budgets: sweep.budgets.clone(),
            overrides: sweep.overrides.clone(),
            measured_on: sweep.measured_on,
            policies: policies
                .map(|policy| (policy.name.clone(), policy.overrides.clone()))
                .collect(),
        }
    }

    /// The first field in which the sweep differs from that of the folder: its name, what the folder has, and
    /// what the sweep has.
    fn difference(&self, sweep: &Self) -> Option<[String; 3]> {
        let differs = |field: &str, found: String, wanted: String| {
            (found != wanted).then(|| [field.to_string(), found, wanted])
        };
        let [ours, theirs] = [self, sweep];
        let fields = [
            ("start", |o: &Self| o.start.display().to_string()),
            ("passes", |o: &Self| o.passes.to_string()),
            ("budgets", |o: &Self| format!("{:?}", o.budgets)),
            ("overrides", |o: &Self| format!("{:?}", o.overrides)),
            ("measured_on", |o: &Self| format!("{:?}", o.measured_on)),
        ] as [(&str, fn(&Self) -> String); 5];
        let mut fields = fields.into_iter();
        let field = fields.find_map(|(name, text)| differs(name, text(ours), text(theirs)));
        let mut policies = theirs.policies.iter();
        field.or_else(|| {
            policies.find_map(|(name, overrides)| {
                let known = ours.policies.get(name)?;
                let field = format!("policies.{name}");
                differs(&field, format!("{known:?}"), format!("{overrides:?}"))
            })
        })
    }
}

/// Writes into the folder what the sweep is, or checks that it is what is written there; it may add policies.
///
/// # Errors
///
/// Where the folder holds another sweep, or the file is damaged or cannot be written.
pub(super) fn claim(folder: &Path, sweep: &Sweep) -> Result<(), TrainerError> {
    let path = folder.join("sweep.json");
    let mut origin = Origin::of(sweep);
    if path.exists() {
        let text = fs::read_to_string(&path).map_err(TrainerError::io(&path, "read"))?;
        let found: Origin = serde_json::from_str(&text).map_err(|error| TrainerError::Sweep {
            path: path.clone(),
            reason: format!("is damaged: {error}"),
        })?;
        if let Some([field, found, wanted]) = found.difference(&origin) {
            return Err(TrainerError::Sweep {
                path: folder.to_path_buf(),
                reason: format!(
                    "holds a sweep with {field} = {found}, not {wanted}; give this one another folder (--out)"
                ),
            });
        }
        for (name, overrides) in found.policies {
            origin.policies.entry(name).or_insert(overrides);
        }
    }
    fs::create_dir_all(folder).map_err(TrainerError::io(folder, "create"))?;
    write(&path, to_json(&origin).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::SweptPolicy;
    use super::*;

    fn sweep(policies: &[&str]) -> Sweep {
        let policies = policies
            .iter()
            .map(|name| SweptPolicy::parse(name).unwrap());
        Sweep {
            start: "runs/start".into(),
            policies: policies.collect(),
            budgets: vec![0.7, 0.5],
            seeds: vec![1],
            passes: 64,
            overrides: vec!["train.batch_size=8".into()],
            measured_on: MeasuredOn::Test,
        }
    }

    #[test]
    fn a_folder_holds_one_sweep_to_which_policies_may_be_added() {
        let folder = tempfile::tempdir().unwrap();
        claim(folder.path(), &sweep(&["tome"])).unwrap();
        claim(folder.path(), &sweep(&["evit"])).unwrap();
        claim(folder.path(), &sweep(&["tome", "evit"])).unwrap();
        let refused = |change: &dyn Fn(&mut Sweep)| {
            let mut other = sweep(&["tome"]);
            change(&mut other);
            claim(folder.path(), &other).unwrap_err().to_string()
        };
        let errors = [
            refused(&|sweep| sweep.start = "runs/other".into()),
            refused(&|sweep| sweep.passes = 65),
            refused(&|sweep| sweep.budgets = vec![0.7]),
            refused(&|sweep| sweep.overrides.clear()),
            refused(&|sweep| sweep.measured_on = MeasuredOn::HeldOut),
            refused(&|sweep| sweep.policies[0].overrides.clear()),
        ];
        let fields = [
            "start",
            "passes",
            "budgets",
            "overrides",
            "measured_on",
            "policies.tome",
        ];
        for (error, field) in errors.iter().zip(fields) {
            assert!(error.contains(field) && error.contains("--out"), "{error}");
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("sweep.json"), "{").unwrap();
        let error = claim(folder.path(), &sweep(&["tome"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("sweep.json"), "{error}");
    }
}
