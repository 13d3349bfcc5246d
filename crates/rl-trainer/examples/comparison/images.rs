//! The images that an experiment names.

use std::error::Error;
use std::path::Path;

use apt_data::{DataSource, ImageDataset, PatchCorruption, Progress};
use apt_rl_trainer::ExperimentConfig;

type Images = Result<ImageDataset, Box<dyn Error>>;

/// Images to learn from, without labels; patches are replaced by a model's grid.
pub fn to_learn(said: &str, grid: [usize; 2]) -> Images {
    let named = Named::new(said)?;
    let images = match named.config()? {
        Some(config) => config.corrupted(config.load_data(None, Progress::Hidden)?.train)?,
        None => DataSource::load_to_learn(named.path, Progress::Hidden)?,
    };
    Ok(named.replaced(images, grid).without_labels())
}

/// Images to measure on.
pub fn to_measure(said: &str, grid: [usize; 2]) -> Images {
    let named = Named::new(said)?;
    let images = match named.config()? {
        Some(config) => config.corrupted(config.load_data(None, Progress::Hidden)?.test)?,
        None => DataSource::load_to_measure(named.path, Default::default(), Progress::Hidden)?.0,
    };
    Ok(named.replaced(images, grid))
}

/// What `PATH` or `PATH+noise:0.25` says.
struct Named<'a> {
    path: &'a Path,
    corruption: Option<PatchCorruption>,
}

impl<'a> Named<'a> {
    fn new(said: &'a str) -> Result<Self, Box<dyn Error>> {
        let (path, corruption) = match said.rsplit_once('+') {
            Some((path, corruption)) => (path, Some(corruption.parse()?)),
            None => (said, None),
        };
        let path = Path::new(path);
        Ok(Self { path, corruption })
    }

    /// The experiment, where the path is one.
    fn config(&self) -> Result<Option<ExperimentConfig>, Box<dyn Error>> {
        let is_config = self.path.extension().is_some_and(|ending| ending == "toml");
        let config = is_config.then(|| ExperimentConfig::load(self.path, &[]));
        Ok(config.transpose()?)
    }

    fn replaced(&self, images: ImageDataset, grid: [usize; 2]) -> ImageDataset {
        match self.corruption {
            Some(corruption) => images.corrupted(corruption, grid),
            None => images,
        }
    }
}
