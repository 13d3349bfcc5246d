use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use apt_inference::{to_json, write_whole};
use serde::{Deserialize, Serialize};

use super::plan::{MeasuredOn, Sweep};
use super::policy::SweptPolicy;
use crate::TrainerError;

/// What all cells of a folder have in common, as `sweep.json` keeps it: cells of another start or of other
/// settings are not to be compared with them. Budgets may be added: what was trained before is measured at them as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Origin {
    start: PathBuf,
    passes: usize,
    overrides: Vec<String>,
    measured_on: MeasuredOn,
    /// By name, what the config of each policy says of which a training began.
    policies: BTreeMap<String, Vec<String>>,
}

impl Origin {
    /// What the sweep is, with those of its policies that `of` says yes to.
    fn of(sweep: &Sweep, of: impl Fn(&SweptPolicy) -> bool) -> Self {
        let policies = sweep.policies.iter().filter(|policy| of(policy));
        Self {
            start: sweep.start.clone(),
            passes: sweep.passes,
            overrides: sweep.overrides.clone(),
            measured_on: sweep.measured_on,
            policies: policies
                .map(|policy| (policy.name.clone(), policy.overrides.clone()))
                .collect(),
        }
    }

    /// Its fields, a policy being one, as they are shown.
    fn fields(&self) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::from([
            ("start".to_string(), self.start.display().to_string()),
            ("passes".to_string(), self.passes.to_string()),
            ("overrides".to_string(), format!("{:?}", self.overrides)),
            ("measured_on".to_string(), format!("{:?}", self.measured_on)),
        ]);
        let policies = self.policies.iter();
        fields.extend(policies.map(|(name, overrides)| {
            let field = format!("policies.{name}");
            (field, format!("{overrides:?}"))
        }));
        fields
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("sweep.json")
}

fn read(folder: &Path) -> Result<Option<Origin>, TrainerError> {
    let path = path(folder);
    if !path.exists() {
        return Ok(None);
    }
    let text = apt_data::read_text(&path)?;
    let origin = serde_json::from_str(&text).map_err(|error| TrainerError::Sweep {
        path,
        reason: format!("is damaged: {error}"),
    })?;
    Ok(Some(origin))
}

/// Checks that nothing was trained in the folder that the sweep would do otherwise.
///
/// # Errors
///
/// Where it holds another sweep, or the file is damaged.
pub(super) fn check(folder: &Path, sweep: &Sweep) -> Result<(), TrainerError> {
    let Some(found) = read(folder)? else {
        return Ok(());
    };
    let found = found.fields();
    for (field, wanted) in Origin::of(sweep, |_| true).fields() {
        let Some(found) = found.get(&field).filter(|&found| *found != wanted) else {
            continue;
        };
        return Err(TrainerError::Sweep {
            path: folder.to_path_buf(),
            reason: format!(
                "holds a sweep with {field} = {found}, not {wanted}; give this one another folder (--out)"
            ),
        });
    }
    Ok(())
}

/// Writes into the folder, which was [`check`]ed, what the sweep is, when a training of `policy` begins: what
/// never began binds nobody.
///
/// # Errors
///
/// Where the file is damaged or cannot be written.
pub(super) fn claim(
    folder: &Path,
    sweep: &Sweep,
    policy: &SweptPolicy,
) -> Result<(), TrainerError> {
    let mut origin = Origin::of(sweep, |other| other == policy);
    if let Some(found) = read(folder)? {
        origin.policies.extend(found.policies);
    }
    fs::create_dir_all(folder).map_err(TrainerError::io(folder, "create"))?;
    Ok(write_whole(&path(folder), to_json(&origin)?.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(policies: &[&str]) -> Sweep {
        let policies = policies
            .iter()
            .map(|name| SweptPolicy::parse(name).unwrap());
        Sweep {
            start: "runs/start".into(),
            policies: policies.collect(),
            flops: vec![0.7, 0.5],
            seeds: vec![1],
            passes: 64,
            overrides: vec!["train.batch_size=8".into()],
            measured_on: MeasuredOn::Test,
        }
    }

    #[test]
    fn a_folder_holds_one_sweep_to_which_policies_seeds_and_budgets_may_be_added() {
        let folder = tempfile::tempdir().unwrap();
        let mut both = sweep(&["tome", "evit"]);
        check(folder.path(), &both).unwrap();
        claim(folder.path(), &both, &both.policies[0]).unwrap();
        check(folder.path(), &sweep(&["evit"])).unwrap();
        let mut more = sweep(&["tome"]);
        more.flops.push(0.35);
        more.seeds.push(2);
        check(folder.path(), &more).unwrap();
        let refused = |change: &dyn Fn(&mut Sweep)| {
            let mut other = sweep(&["tome"]);
            change(&mut other);
            check(folder.path(), &other).unwrap_err().to_string()
        };
        let errors = [
            refused(&|sweep| sweep.start = "runs/other".into()),
            refused(&|sweep| sweep.passes = 65),
            refused(&|sweep| sweep.overrides.clear()),
            refused(&|sweep| sweep.measured_on = MeasuredOn::HeldOut),
            refused(&|sweep| sweep.policies[0].overrides.push("seed=3".into())),
        ];
        let fields = [
            "start",
            "passes",
            "overrides",
            "measured_on",
            "policies.tome",
        ];
        for (error, field) in errors.iter().zip(fields) {
            assert!(error.contains(field) && error.contains("--out"), "{error}");
        }
        // No training of evit began: it may still say something else. Then it may not.
        let before = both.policies[1].clone();
        both.policies[1]
            .overrides
            .push("train.distillation_weight=1".into());
        check(folder.path(), &both).unwrap();
        claim(folder.path(), &both, &both.policies[1]).unwrap();
        both.policies[1] = before;
        let error = check(folder.path(), &both).unwrap_err().to_string();
        assert!(error.contains("policies.evit"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("sweep.json"), "{").unwrap();
        let error = check(folder.path(), &sweep(&["tome"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("sweep.json"), "{error}");
    }
}
