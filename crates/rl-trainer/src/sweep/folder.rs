use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use apt_inference::{to_json, write_whole};
use serde::Serialize;

use super::cell::Cell;
use super::plot::{Against, plot_png, plot_svg};
use super::summary::summary;
use crate::TrainerError;

/// A folder that holds a sweep: `cells/<policy>-<target>-<seed>.json`, and what is made of them.
#[derive(Clone, Debug)]
pub struct CellFolder {
    path: PathBuf,
}

/// A cell without its images; `T` is how its tokens are written.
#[derive(Serialize)]
struct Row<'a, T> {
    policy: &'a str,
    target_flops: f64,
    seed: u64,
    accuracy: f64,
    dense_accuracy: f64,
    flops_share: f64,
    images_per_s: f64,
    dense_images_per_s: f64,
    speed_up: f64,
    realized: f64,
    image_passes: u64,
    train_seconds: f64,
    test_images: usize,
    tokens_per_layer: T,
    foreground_precision: Option<f64>,
    foreground_recall: Option<f64>,
}

impl<'a, T> Row<'a, T> {
    fn new(cell: &'a Cell, tokens: impl FnOnce(&'a [f64]) -> T) -> Self {
        Self {
            policy: &cell.policy,
            target_flops: cell.target_flops,
            seed: cell.seed,
            accuracy: cell.accuracy,
            dense_accuracy: cell.dense_accuracy,
            flops_share: cell.flops_share,
            images_per_s: cell.images_per_s,
            dense_images_per_s: cell.dense_images_per_s,
            speed_up: cell.speed_up(),
            realized: cell.realized(),
            image_passes: cell.image_passes,
            train_seconds: cell.train_seconds,
            test_images: cell.test_images,
            tokens_per_layer: tokens(&cell.tokens_per_layer),
            foreground_precision: cell.foreground_precision,
            foreground_recall: cell.foreground_recall,
        }
    }
}

impl CellFolder {
    /// The folder of a sweep, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a cell is or will be.
    pub fn cell_path(&self, policy: &str, target_flops: f64, seed: u64) -> PathBuf {
        let name = format!("{policy}-{target_flops}-{seed}.json");
        self.path.join("cells").join(name)
    }

    /// Whether a cell was saved.
    pub fn is_done(&self, policy: &str, target_flops: f64, seed: u64) -> bool {
        self.cell_path(policy, target_flops, seed).is_file()
    }

    /// Reads a cell.
    ///
    /// # Errors
    ///
    /// Where it is not there or is damaged.
    pub fn read(&self, policy: &str, target_flops: f64, seed: u64) -> Result<Cell, TrainerError> {
        self.read_file(&self.cell_path(policy, target_flops, seed))
    }

    /// All cells: by policy in alphabetical order, budget and seed. None where nothing was saved.
    ///
    /// # Errors
    ///
    /// Where one is damaged.
    pub fn all(&self) -> Result<Vec<Cell>, TrainerError> {
        let folder = self.path.join("cells");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut cells = Vec::new();
        for entry in fs::read_dir(&folder).map_err(TrainerError::io(&folder, "list"))? {
            let path = entry.map_err(TrainerError::io(&folder, "list"))?.path();
            if path.extension() == Some(OsStr::new("json")) {
                cells.push(self.read_file(&path)?);
            }
        }
        cells.sort_by(|a, b| {
            let by_policy = a.policy.cmp(&b.policy);
            let by_budget = by_policy.then(a.target_flops.total_cmp(&b.target_flops));
            by_budget.then(a.seed.cmp(&b.seed))
        });
        Ok(cells)
    }

    /// Saves a cell, whole or not at all, and writes `rows.csv` and `rows.json` anew.
    ///
    /// # Errors
    ///
    /// Where the cell cannot be true, another one is damaged, or a file cannot be written.
    pub fn save(&self, cell: &Cell) -> Result<(), TrainerError> {
        let path = self.cell_path(&cell.policy, cell.target_flops, cell.seed);
        if let Some(problem) = cell.problem() {
            return Err(TrainerError::Sweep {
                path,
                reason: problem,
            });
        }
        let folder = self.path.join("cells");
        fs::create_dir_all(&folder).map_err(TrainerError::io(&folder, "create"))?;
        write_whole(&path, to_json(cell)?.as_bytes())?;
        self.write_rows(&self.all()?)
    }

    /// Writes `summary.md`, `accuracy-flops.{svg,png}` and `accuracy-time.{svg,png}` of all cells,
    /// and says which files those are. Each policy is compared against `reference`.
    ///
    /// # Errors
    ///
    /// Where there is no cell or none of the reference, one is damaged, or a file cannot be written.
    pub fn report(&self, reference: &str) -> Result<Vec<PathBuf>, TrainerError> {
        let cells = self.all()?;
        if cells.is_empty() {
            return Err(TrainerError::Sweep {
                path: self.path.clone(),
                reason: "holds no cell yet; run the sweep first".into(),
            });
        }
        if !cells.iter().any(|cell| cell.policy == reference) {
            let mut names: Vec<&str> = cells.iter().map(|cell| cell.policy.as_str()).collect();
            names.dedup();
            return Err(TrainerError::Sweep {
                path: self.path.clone(),
                reason: format!(
                    "holds no cell of {reference} to compare with; choose the reference among {}",
                    names.join(", ")
                ),
            });
        }
        self.write_rows(&cells)?;
        let mut written = vec![self.path.join("summary.md")];
        write_whole(&written[0], summary(&cells, reference).as_bytes())?;
        for against in [Against::Flops, Against::Time] {
            let path = |end: &str| self.path.join(format!("{}.{end}", against.file_stem()));
            let failed = |path: PathBuf| {
                move |reason: String| TrainerError::Sweep {
                    path,
                    reason: format!("cannot be drawn: {reason}"),
                }
            };
            let svg = plot_svg(&cells, against).map_err(failed(path("svg")))?;
            write_whole(&path("svg"), svg.as_bytes())?;
            let png = plot_png(&svg).map_err(failed(path("png")))?;
            write_whole(&path("png"), &png)?;
            written.extend([path("svg"), path("png")]);
        }
        Ok(written)
    }

    fn read_file(&self, path: &Path) -> Result<Cell, TrainerError> {
        let text = apt_data::read_text(path)?;
        let damaged = |reason: String| TrainerError::Sweep {
            path: path.to_path_buf(),
            reason: format!("is damaged: {reason}; delete the file to run this cell again"),
        };
        let cell: Cell = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if let Some(problem) = cell.problem() {
            return Err(damaged(problem));
        }
        let own = self.cell_path(&cell.policy, cell.target_flops, cell.seed);
        if own.file_name() != path.file_name() {
            return Err(damaged(format!(
                "it holds policy {}, target_flops {}, seed {}, which its name does not say",
                cell.policy, cell.target_flops, cell.seed
            )));
        }
        Ok(cell)
    }

    fn write_rows(&self, cells: &[Cell]) -> Result<(), TrainerError> {
        let path = self.path.join("rows.csv");
        let failed = |reason: String| TrainerError::Sweep {
            path: path.clone(),
            reason,
        };
        let mut table = csv::Writer::from_writer(Vec::new());
        let joined = |tokens: &[f64]| {
            let tokens: Vec<String> = tokens.iter().map(f64::to_string).collect();
            tokens.join(" ")
        };
        for cell in cells {
            let row = Row::new(cell, joined);
            table.serialize(row).map_err(|e| failed(e.to_string()))?;
        }
        let table = table.into_inner().map_err(|e| failed(e.to_string()))?;
        write_whole(&path, &table)?;
        let rows: Vec<_> = cells
            .iter()
            .map(|cell| Row::new(cell, |tokens| tokens))
            .collect();
        Ok(write_whole(
            &self.path.join("rows.json"),
            to_json(&rows)?.as_bytes(),
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic;
    use super::*;

    #[test]
    fn a_saved_cell_is_done_and_read_and_rows_hold_it() {
        let out = tempfile::tempdir().unwrap();
        let folder = CellFolder::new(out.path());
        assert!(folder.all().unwrap().is_empty());
        let (first, second) = (
            synthetic::cell("top-k", 0.7, 0, 30),
            synthetic::cell("evit", 0.5, 1, 30),
        );
        assert!(!folder.is_done("top-k", 0.7, 0));
        folder.save(&first).unwrap();
        folder.save(&second).unwrap();
        assert!(out.path().join("cells/top-k-0.7-0.json").is_file());
        assert!(folder.is_done("top-k", 0.7, 0) && !folder.is_done("top-k", 0.7, 1));
        assert_eq!(folder.read("evit", 0.5, 1).unwrap().correct, second.correct);

        let text = fs::read_to_string(out.path().join("rows.csv")).unwrap();
        let mut rows = csv::Reader::from_reader(text.as_bytes());
        let headers = rows.headers().unwrap().clone();
        let at = |name: &str| headers.iter().position(|h| h == name).unwrap();
        let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
        assert_eq!((rows.len(), &rows[0][0], &rows[1][0]), (2, "evit", "top-k"));
        let realized: f64 = rows[1][at("realized")].parse().unwrap();
        assert!((realized - first.realized()).abs() < 1e-12);
        assert_eq!(&rows[1][at("tokens_per_layer")], "140.5 100.25 64");
        assert_eq!(&rows[1][at("foreground_precision")], "");
        assert!(!text.contains("correct"));

        let text = fs::read_to_string(out.path().join("rows.json")).unwrap();
        let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(rows[1]["tokens_per_layer"][1], 100.25);
        assert!(rows[1].get("correct").is_none());
    }

    #[test]
    fn damage_names_file_and_field() {
        let out = tempfile::tempdir().unwrap();
        let folder = CellFolder::new(out.path());
        folder.save(&synthetic::cell("top-k", 0.7, 0, 30)).unwrap();
        let path = folder.cell_path("top-k", 0.7, 0);
        let good = fs::read_to_string(&path).unwrap();
        let cases = [
            (good.replace("\"flops_share\"", "\"flops\""), "`flops`"),
            (good.replace("\"seed\": 0,", ""), "`seed`"),
            (
                good.replace("\"correct\": \"", "\"correct\": \"1"),
                "correct is of 31",
            ),
            (good.replace("\"correct\": \"", "\"correct\": \"x"), "'x'"),
            (good.replace("\"seed\": 0", "\"seed\": 4"), "seed 4"),
            (good[..good.len() / 2].to_string(), "EOF"),
        ];
        for (text, field) in cases {
            assert_ne!(text, good);
            fs::write(&path, text).unwrap();
            for error in [folder.read("top-k", 0.7, 0).err(), folder.all().err()] {
                let error = error.unwrap().to_string();
                assert!(error.contains("top-k-0.7-0.json"), "{error}");
                assert!(error.contains(field), "{field}: {error}");
            }
        }
    }

    #[test]
    fn what_cannot_be_true_is_not_saved() {
        let out = tempfile::tempdir().unwrap();
        let folder = CellFolder::new(out.path());
        let mut cell = synthetic::cell("top-k", 0.7, 0, 30);
        cell.accuracy = f64::NAN;
        assert!(folder.save(&cell).is_err());
        assert!(folder.all().unwrap().is_empty());
    }

    #[test]
    fn a_report_is_a_table_and_two_plots_in_two_formats() {
        let out = tempfile::tempdir().unwrap();
        let folder = CellFolder::new(out.path());
        let empty = folder.report("random").unwrap_err().to_string();
        assert!(empty.contains("no cell"), "{empty}");
        for seed in 0..2 {
            folder
                .save(&synthetic::cell("random", 0.5, seed, 30))
                .unwrap();
            folder
                .save(&synthetic::cell("top-k", 0.5, seed, 30))
                .unwrap();
        }
        let error = folder.report("tome").unwrap_err().to_string();
        assert!(error.contains("among random, top-k"), "{error}");
        let written = folder.report("random").unwrap();
        assert_eq!(written.len(), 5);
        for path in written {
            assert!(
                fs::metadata(&path).unwrap().len() > 300,
                "{}",
                path.display()
            );
        }
    }

    /// Writes the report of a synthetic sweep to `SWEEP_OUT`, to be looked at.
    #[test]
    #[ignore = "for the eye"]
    fn a_report_to_look_at() {
        let folder = CellFolder::new(std::env::var("SWEEP_OUT").unwrap());
        for cell in synthetic::sweep(5000) {
            folder.save(&cell).unwrap();
        }
        let start = std::time::Instant::now();
        folder.report("random").unwrap();
        println!("{:?}", start.elapsed());
    }
}
