//! Pictures of an image's patches: kept, merged and removed.

mod animation;
mod bars;
mod colors;
mod draw;
mod layers;
mod legend;
mod mark;
mod outline;
mod sheet;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use apt_inference::{Answer, write_whole};
use apt_vit_model::VitConfig;
use image::RgbImage;

use crate::ReportError;

pub(crate) use colors::{Colors, colors};
pub(crate) use draw::draw;
pub(crate) use layers::shown;
pub(crate) use mark::png;
pub(crate) use outline::Area;

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
    ///
    /// # Errors
    ///
    /// Where the picture cannot be drawn or written.
    pub fn write(
        &mut self,
        source: &Path,
        seen: &apt_data::RgbImage,
        model: &VitConfig,
        answer: &Answer,
    ) -> Result<PathBuf, ReportError> {
        let image = pixels(seen)?;
        let path = self.place_for(source, "png", mark::is_ours);
        let png = png(&draw(&image, model.grid(), model.num_layers, answer)?)?;
        write_whole(&path, &png)?;
        Ok(path)
    }

    /// Writes `<name>.gif`, which shows one block after the other, as [`write`](Self::write) does.
    ///
    /// # Errors
    ///
    /// Where the animation cannot be drawn or written.
    pub fn animate(
        &mut self,
        source: &Path,
        seen: &apt_data::RgbImage,
        model: &VitConfig,
        answer: &Answer,
    ) -> Result<PathBuf, ReportError> {
        let image = pixels(seen)?;
        let path = self.place_for(source, "gif", animation::is_ours);
        write_whole(&path, &animation::gif(&image, model.grid(), answer)?)?;
        Ok(path)
    }

    /// A name that this run has not given yet, and that is free or that of a picture of ours.
    fn place_for(&mut self, source: &Path, extension: &str, is_ours: fn(&Path) -> bool) -> PathBuf {
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        let mut name = format!("{stem}.{extension}");
        let mut number = 1;
        loop {
            let path = self.folder.join(&name);
            let free = !path.exists() || is_ours(&path);
            if free && self.given.insert(name.to_lowercase()) {
                return path;
            }
            number += 1;
            name = format!("{stem}-{number}.{extension}");
        }
    }
}

fn pixels(seen: &apt_data::RgbImage) -> Result<RgbImage, ReportError> {
    let image = RgbImage::from_raw(seen.width, seen.height, seen.pixels.clone());
    image.ok_or_else(|| ReportError::drawing("its pixels do not fit its size"))
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
            features: Vec::new(),
            tokens: 197,
            layers: Vec::new(),
            flops: 1,
            flops_share: 1.0,
        };
        let model = VitPreset::Tiny32.config();
        let path = pictures.write(Path::new(source), &seen, &model, &answer);
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

    #[test]
    fn an_animation_has_a_frame_for_the_image_and_one_for_each_block() {
        use apt_inference::LayerAnswer;
        use image::AnimationDecoder;

        let folder = tempfile::tempdir().unwrap();
        let model = VitPreset::Tiny32.config();
        let patches = model.num_patches();
        let layer = |layer: usize, gone: usize| LayerAnswer {
            layer,
            tokens: 1 + patches - gone,
            parked: 0,
            restarted: false,
            flops_share: 0.5,
            kept: (0..patches).map(|patch| patch >= gone).collect(),
            token: (0..patches)
                .map(|patch| (patch >= gone).then_some(patch))
                .collect(),
        };
        let answer = Answer {
            classes: Vec::new(),
            features: Vec::new(),
            tokens: 1 + patches,
            layers: vec![layer(1, 8), layer(3, 20)],
            flops: 1,
            flops_share: 0.5,
        };
        let seen = apt_data::RgbImage {
            width: 4,
            height: 4,
            pixels: vec![90; 48],
        };
        // Twice: the second run replaces its own.
        for _ in 0..2 {
            let mut pictures = Pictures::new(folder.path());
            let path = pictures
                .animate(Path::new("cat.jpg"), &seen, &model, &answer)
                .unwrap();
            assert_eq!(path.file_name().unwrap(), "cat.gif");
            let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
            let frames = image::codecs::gif::GifDecoder::new(file)
                .unwrap()
                .into_frames();
            let frames = frames.collect_frames().unwrap();
            assert_eq!(frames.len(), 3);
            assert!(frames[1].buffer() != frames[2].buffer());
        }
        std::fs::write(folder.path().join("dog.gif"), b"GIF89a").unwrap();
        let mut pictures = Pictures::new(folder.path());
        let path = pictures
            .animate(Path::new("dog.jpg"), &seen, &model, &answer)
            .unwrap();
        assert_eq!(path.file_name().unwrap(), "dog-2.gif");
    }
}
