//! What became of an image's patches, as a picture.

mod draw;
mod layers;
mod mark;
mod outline;
mod sheet;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use apt_inference::Answer;
use apt_vit_model::{VitConfig, printable};
use image::RgbImage;

/// The pictures of one run of the program, in one folder.
#[derive(Debug)]
pub struct Pictures {
    folder: PathBuf,
    /// The names that this run has given, in small letters.
    given: HashSet<String>,
}

impl Pictures {
    /// Pictures in `folder`, which exists.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
            given: HashSet::new(),
        }
    }

    /// Writes `<name>.png`: the image with its class, and the image after the policy's blocks, with what is gone veiled
    /// and what merged coloured. It replaces a picture that an earlier run wrote, and no other file. `seen` is the part
    /// of the image that the model sees. Returns where.
    pub fn write(
        &mut self,
        source: &Path,
        seen: apt_data::RgbImage,
        model: &VitConfig,
        answer: &Answer,
    ) -> Result<PathBuf> {
        let image = RgbImage::from_raw(seen.width, seen.height, seen.pixels)
            .with_context(|| format!("{}: its pixels do not fit its size", printable(source)))?;
        let path = self.place_for(source);
        draw::draw(&image, model.grid(), answer)
            .and_then(|picture| mark::png(&picture))
            .and_then(|png| Ok(std::fs::write(&path, png)?))
            .with_context(|| format!("{}: cannot write the picture", printable(&path)))?;
        Ok(path)
    }

    /// A name that this run has not given yet, and that no file has that is not ours.
    fn place_for(&mut self, source: &Path) -> PathBuf {
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        let mut name = format!("{stem}.png");
        let mut number = 1;
        loop {
            let path = self.folder.join(&name);
            let free = !path.exists() || mark::is_ours(&path);
            if free && self.given.insert(name.to_lowercase()) {
                return path;
            }
            number += 1;
            name = format!("{stem}-{number}.png");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_inference::ClassProbability;
    use apt_vit_model::VitPreset;

    fn write(pictures: &mut Pictures, source: &str) -> String {
        let seen = apt_data::RgbImage {
            width: 4,
            height: 4,
            pixels: vec![90; 48],
        };
        let answer = Answer {
            classes: vec![ClassProbability {
                class: "cat".to_string(),
                index: 0,
                probability: 0.5,
            }],
            tokens: 197,
            layers: Vec::new(),
            flops: 1,
            flops_share: 1.0,
        };
        let model = VitPreset::Tiny32.config();
        let path = pictures.write(Path::new(source), seen, &model, &answer);
        let path = path.unwrap();
        path.file_name().unwrap().to_string_lossy().into_owned()
    }

    #[test]
    fn a_second_run_replaces_its_own_pictures_and_one_run_never_does() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut pictures = Pictures::new(folder.path());
            assert_eq!(write(&mut pictures, "a/cat.jpg"), "cat.png");
            assert_eq!(write(&mut pictures, "b/cat.jpg"), "cat-2.png");
            assert_eq!(write(&mut pictures, "b/dog.jpg"), "dog.png");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_picture_of_somebody_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let photo = folder.path().join("cat.png");
        RgbImage::new(3, 3).save(&photo).unwrap();
        let before = std::fs::read(&photo).unwrap();
        for _ in 0..2 {
            let mut pictures = Pictures::new(folder.path());
            assert_eq!(write(&mut pictures, "cat.png"), "cat-2.png");
        }
        assert_eq!(std::fs::read(&photo).unwrap(), before);
    }
}
