//! Images that cannot be read.

use super::*;

/// Class folders with three bad images of 16: text, a cut JPEG with a whole header, and one that is empty.
fn with_bad_images() -> Vec<(String, Vec<u8>)> {
    let mut files = class_folders(&CLASSES, 4, 1);
    let cut = jpeg(&picture(90, 90, 7));
    files.push(("train/ant/text.png".into(), b"no image".to_vec()));
    files.push(("train/bee/cut.jpg".into(), cut[..cut.len() / 2].to_vec()));
    files.push(("train/cat/empty.bmp".into(), Vec::new()));
    files.push(("train/cat/large.jpg".into(), cut));
    files
}

#[test]
fn bad_images_are_counted_and_named_together() {
    for error in errors(&with_bad_images()) {
        assert!(error.contains("2 of 16 images"), "{error}");
        for name in ["text.png", "empty.bmp", "on_bad"] {
            assert!(error.contains(name), "{error}");
        }
    }
}

#[test]
fn bad_images_are_left_out_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    write_files(&folder.path().join("set"), &with_bad_images());
    let archive = folder.path().join("set.tgz");
    std::fs::write(&archive, tar_gz(&with_bad_images())).unwrap();
    for path in [folder.path().join("set"), archive] {
        let tree = || Tree::open(&path, Progress::Hidden).unwrap();
        let splits = load(tree(), HELD, SKIP).unwrap();
        let train = &splits.train;
        assert_eq!((train.len(), splits.test.len()), (13, 3));
        assert!((0..train.len()).all(|i| train.image(i).is_ok()));
        let bad: Vec<&str> = train.bad().iter().map(|bad| bad.name.as_str()).collect();
        assert_eq!(
            bad,
            [
                "train/ant/text.png",
                "train/bee/cut.jpg",
                "train/cat/empty.bmp"
            ]
        );
        assert!(train.bad()[1].reason.contains("is cut off"));
        assert_eq!(train.take(2).bad().len(), 3);
        assert!(splits.test.bad().is_empty());
        let (measured, _) = load_to_measure(&tree(), SKIP).unwrap();
        assert_eq!(measured.len(), 3);
    }
}

#[test]
fn a_split_of_bad_images_alone_is_an_error_and_not_another_split() {
    let mut files = class_folders(&CLASSES, 4, 0);
    files.push(("val/ant/1.png".into(), b"no image".to_vec()));
    files.extend(class_folders(&CLASSES, 0, 1));
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), &files);
    let tree = Tree::open(folder.path(), Progress::Hidden).unwrap();
    let error = load(tree, HELD, SKIP).unwrap_err().to_string();
    assert!(error.contains("none of 1 images can be read"), "{error}");
    assert!(error.contains("val/ant/1.png"), "{error}");
}

#[test]
fn one_good_image_is_too_few_to_hold_out_from() {
    let mut files = class_folders(&["ant"], 1, 0);
    files.push(("train/bee/1.png".into(), b"no image".to_vec()));
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), &files);
    let tree = Tree::open(folder.path(), Progress::Hidden).unwrap();
    let error = load(tree, HELD, SKIP).unwrap_err().to_string();
    assert!(error.contains("at least two"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_pipe_among_the_images_is_a_bad_image() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), &class_folders(&CLASSES, 2, 1));
    let pipe = folder.path().join("train/ant/pipe.png");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let error = load_path(folder.path()).unwrap_err().to_string();
    assert!(error.contains("pipe.png is a named pipe"), "{error}");
    let tree = Tree::open(folder.path(), Progress::Hidden).unwrap();
    assert_eq!(load(tree, HELD, SKIP).unwrap().train.len(), 6);
}

#[test]
fn the_names_of_bad_images_cannot_act_on_the_terminal() {
    let mut files = class_folders(&CLASSES, 2, 1);
    files.push(("train/ant/\u{1b}[31m.png".into(), b"no image".to_vec()));
    files.push(("train/bee/\u{1b}[32m.png".into(), b"no image".to_vec()));
    for error in errors(&files) {
        assert!(error.contains(r"train/ant/\u{1b}[31m.png"), "{error}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
}
