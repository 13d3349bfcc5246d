mod bad_images;

use super::*;
use crate::Progress;
use crate::samples::{class_folders, jpeg, picture, png, tar_gz, write_files};
use std::path::Path;

const CLASSES: [&str; 3] = ["ant", "bee", "cat"];
const HELD: HoldOut = HoldOut {
    fraction: 0.25,
    seed: 1,
};

const FAIL: LoadOptions = LoadOptions {
    progress: Progress::Hidden,
    on_bad: OnBad::Fail,
};
const SKIP: LoadOptions = LoadOptions {
    progress: Progress::Hidden,
    on_bad: OnBad::Skip,
};

fn load_path(path: &Path) -> Result<Splits, DataError> {
    load(Tree::open(path, Progress::Hidden)?, HELD, FAIL)
}

/// Loads the files from a folder and from an archive.
fn load_both(files: &[(String, Vec<u8>)]) -> [Result<Splits, DataError>; 2] {
    let folder = tempfile::tempdir().unwrap();
    write_files(&folder.path().join("set"), files);
    let archive = folder.path().join("set.tgz");
    std::fs::write(&archive, tar_gz(files)).unwrap();
    [load_path(&folder.path().join("set")), load_path(&archive)]
}

fn errors(files: &[(String, Vec<u8>)]) -> [String; 2] {
    load_both(files).map(|loaded| loaded.expect_err("bad files were accepted").to_string())
}

fn nested(files: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let nest = |(name, bytes)| (format!("pets/{name}"), bytes);
    files.into_iter().map(nest).collect()
}

#[test]
fn folder_and_archive_with_and_without_an_enclosing_folder_give_the_same_images() {
    let files = class_folders(&CLASSES, 4, 2);
    let loaded = [load_both(&files), load_both(&nested(files.clone()))];
    for splits in loaded.into_iter().flatten().map(Result::unwrap) {
        assert_eq!(splits.train.class_names(), CLASSES);
        assert_eq!((splits.train.len(), splits.test.len()), (12, 6));
        assert_eq!(splits.test.name(4), "test/bee/001.png");
        assert_eq!(splits.test.label(4), 1);
        assert_eq!(splits.test.image(4).unwrap(), picture(8, 8, 51));
    }
}

#[test]
fn the_first_images_show_every_class() {
    let [splits, _] = load_both(&class_folders(&CLASSES, 4, 1));
    let train = splits.unwrap().train;
    let labels: Vec<_> = (0..3).map(|i| train.label(i)).collect();
    assert_eq!(labels, [0, 1, 2]);
}

#[test]
fn a_missing_test_split_is_held_out_and_disjoint() {
    for splits in load_both(&class_folders(&CLASSES, 4, 0)) {
        let splits = splits.unwrap();
        assert_eq!((splits.train.len(), splits.test.len()), (9, 3));
        let names = |set: &ImageDataset| (0..set.len()).map(|i| set.name(i)).collect::<Vec<_>>();
        let train = names(&splits.train);
        assert!(names(&splits.test).iter().all(|name| !train.contains(name)));
    }
}

#[test]
fn class_folders_need_no_train_folder() {
    let files: Vec<_> = class_folders(&CLASSES, 4, 0)
        .into_iter()
        .map(|(name, bytes)| (name.replace("train/", ""), bytes))
        .collect();
    for files in [nested(files.clone()), files] {
        for splits in load_both(&files) {
            let splits = splits.unwrap();
            assert_eq!(splits.train.class_names(), CLASSES);
            assert_eq!(splits.train.len() + splits.test.len(), 12);
        }
    }
}

#[test]
fn large_images_are_decoded_when_asked_for() {
    let large = picture(80, 70, 9);
    let mut files = class_folders(&CLASSES, 2, 1);
    files.push(("test/cat/large.JPEG".into(), jpeg(&large)));
    files.push(("test/cat/large.png".into(), png(&large)));
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), &files);
    let archive = folder.path().join("set.tgz");
    std::fs::write(&archive, tar_gz(&files)).unwrap();
    for path in [folder.path(), &archive] {
        let test = load_path(path).unwrap().test;
        let last = test.len() - 1;
        assert_eq!(test.name(last), "test/cat/large.png");
        assert_eq!(test.image(last).unwrap(), large);
        assert_eq!(test.image(last - 1).unwrap().width, 80);
    }
}

#[test]
fn hidden_and_text_files_are_skipped() {
    let mut files = class_folders(&CLASSES, 2, 1);
    for name in ["train/ant/.x.png", "train/ant/notes.txt", "README.md"] {
        files.push((name.into(), b"text".to_vec()));
    }
    for splits in load_both(&files) {
        assert_eq!(splits.unwrap().train.len(), 6);
    }
}

#[test]
fn a_file_that_is_no_image_is_named() {
    let mut files = class_folders(&CLASSES, 2, 1);
    files.push(("train/bee/broken.jpg".into(), b"no image".to_vec()));
    for error in errors(&files) {
        assert!(error.contains("train/bee/broken.jpg"), "{error}");
    }
}

#[test]
fn a_class_without_images_is_named() {
    let mut files = class_folders(&CLASSES, 2, 1);
    files.push(("train/dog/photo.tiff".into(), b"tiff".to_vec()));
    for error in errors(&files) {
        assert!(error.contains("train/dog"), "{error}");
        assert!(error.contains("photo.tiff"), "{error}");
    }
}

#[test]
fn an_empty_class_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), &class_folders(&CLASSES, 2, 1));
    std::fs::create_dir(folder.path().join("test/bat")).unwrap();
    let error = load_path(folder.path()).unwrap_err().to_string();
    assert!(error.contains("test/bat"), "{error}");
}

#[test]
fn a_test_class_that_training_lacks_is_named() {
    let mut files = class_folders(&CLASSES, 2, 1);
    files.push(("test/wolf/1.png".into(), png(&picture(4, 4, 0))));
    for error in errors(&files) {
        assert!(error.contains("\"wolf\""), "{error}");
        assert!(error.contains("ant, bee, cat"), "{error}");
    }
}

#[test]
fn one_class_is_not_enough() {
    for error in errors(&class_folders(&["ant"], 2, 1)) {
        assert!(error.contains("one class only, \"ant\""), "{error}");
    }
}

#[test]
fn a_folder_without_images_tells_what_it_found() {
    for error in errors(&[("notes.txt".into(), b"text".to_vec())]) {
        assert!(error.contains("found notes.txt"), "{error}");
    }
}

fn renamed(files: &[(String, Vec<u8>)], from: &str, to: &str) -> Vec<(String, Vec<u8>)> {
    let rename = |(name, bytes): &(String, Vec<u8>)| (name.replace(from, to), bytes.clone());
    files.iter().map(rename).collect()
}

#[test]
fn a_validation_split_is_there_to_choose_by_or_else_to_judge_by() {
    let files = class_folders(&CLASSES, 4, 2);
    for name in ["val", "valid", "validation"] {
        let validated = renamed(&files, "test/", &format!("{name}/"));
        for splits in load_both(&nested(validated.clone())) {
            let splits = splits.unwrap();
            assert_eq!((splits.train.len(), splits.test.len()), (12, 6), "{name}");
            assert!(splits.val.is_none() && splits.test.name(0).starts_with(name));
        }
        let all = [files.clone(), validated].concat();
        let [splits, _] = load_both(&all);
        let splits = splits.unwrap();
        assert_eq!((splits.val.unwrap().len(), splits.test.len()), (6, 6));
        assert!(splits.test.name(0).starts_with("test"));
    }
    let two = [
        renamed(&files, "test/", "val/"),
        renamed(&files, "test/", "valid/"),
    ]
    .concat();
    for error in errors(&two) {
        assert!(error.contains("both val and valid"), "{error}");
    }
}

#[test]
fn nobody_trains_on_test_images() {
    let files = class_folders(&CLASSES, 0, 2);
    for error in errors(&files) {
        assert!(error.contains("has test, but no train folder"), "{error}");
    }
}

#[test]
fn a_trained_model_is_measured_on_the_test_split_or_on_all_there_is() {
    let measured = |files: &[(String, Vec<u8>)]| {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), files);
        let tree = Tree::open(folder.path(), Progress::Hidden).unwrap();
        let (images, from) = load_to_measure(&tree, FAIL).unwrap();
        (images.len(), from.rsplit('/').next().unwrap().to_string())
    };
    let files = class_folders(&CLASSES, 4, 2);
    assert_eq!(measured(&files), (6, "test".into()));
    assert_eq!(measured(&class_folders(&CLASSES, 0, 2)), (6, "test".into()));
    assert_eq!(
        measured(&renamed(&files, "test/", "val/")),
        (6, "val".into())
    );
    assert_eq!(
        measured(&renamed(&class_folders(&CLASSES, 4, 0), "train/", "")).0,
        12
    );
    // One class is enough to be measured.
    assert_eq!(measured(&class_folders(&["ant"], 0, 3)).0, 3);
}

#[test]
fn webp_bmp_and_gif_are_images_like_others() {
    use image::ImageFormat::{Bmp, Gif, WebP};
    let mut files = class_folders(&CLASSES, 2, 1);
    for (name, format) in [("1.webp", WebP), ("2.BMP", Bmp), ("3.gif", Gif)] {
        let bytes = crate::samples::encode(&picture(80, 70, 9), format);
        files.push((format!("test/dog/{name}"), bytes));
        files.push((format!("train/dog/{name}"), png(&picture(8, 8, 9))));
    }
    for splits in load_both(&files) {
        let splits = splits.unwrap();
        assert_eq!((splits.train.len(), splits.test.len()), (9, 6));
    }
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), &files);
    let test = load_path(folder.path()).unwrap().test;
    let widths: Vec<_> = (0..test.len())
        .map(|index| test.image(index).unwrap().width)
        .collect();
    assert_eq!(widths.iter().filter(|&&width| width == 80).count(), 3);
}

#[test]
fn the_names_of_splits_count_in_any_case() {
    let files = class_folders(&CLASSES, 4, 2);
    let files = renamed(&renamed(&files, "train/", "Train/"), "test/", "TEST/");
    for files in [nested(files.clone()), files] {
        for splits in load_both(&files) {
            let splits = splits.unwrap();
            assert_eq!(splits.train.class_names(), CLASSES);
            assert_eq!((splits.train.len(), splits.test.len()), (12, 6));
            assert_eq!(splits.test.name(0), "TEST/ant/000.png");
        }
    }
    let validated = renamed(&class_folders(&CLASSES, 4, 2), "test/", "Val/");
    for splits in load_both(&validated) {
        assert_eq!(splits.unwrap().test.name(0), "Val/ant/000.png");
    }
}

#[test]
fn one_split_under_two_spellings_is_refused() {
    let files = class_folders(&CLASSES, 4, 2);
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("set.tgz");
    let files = [files.clone(), renamed(&files, "train/", "Train/")].concat();
    std::fs::write(&archive, tar_gz(&files)).unwrap();
    let error = load_path(&archive).unwrap_err().to_string();
    assert!(
        error.contains("both Train and train") && error.contains("one folder of training images"),
        "{error}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn class_folders_whose_names_are_no_text_are_refused_by_name() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), &class_folders(&CLASSES, 2, 1));
    let named = std::ffi::OsStr::from_bytes(b"d\xffg");
    let class = folder.path().join("train").join(named);
    std::fs::create_dir(&class).unwrap();
    std::fs::write(class.join("1.png"), png(&picture(8, 8, 9))).unwrap();
    let error = load_path(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains(r"train/d\xffg has a name that is not valid UTF-8"),
        "{error}"
    );
    // A picture may be called so: its name is no class.
    std::fs::remove_dir_all(&class).unwrap();
    let image = folder.path().join("train/ant").join(named);
    std::fs::write(image.with_extension("png"), png(&picture(8, 8, 9))).unwrap();
    assert_eq!(load_path(folder.path()).unwrap().train.len(), 7);
}

#[test]
fn an_image_that_is_twice_in_an_archive_counts_once() {
    let files = class_folders(&CLASSES, 4, 2);
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("set.tgz");
    std::fs::write(&archive, tar_gz(&[files.clone(), files].concat())).unwrap();
    let splits = load_path(&archive).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (12, 6));
}
