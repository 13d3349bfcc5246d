//! What the end of a training leaves to look at.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::Path;

use apt_report::{FILE, PassSettings, write_after_training};
use burn::tensor::Device;
use common::copied;

#[test]
fn the_end_of_a_training_leaves_pictures_and_a_page_and_one_does_not_need_the_other() {
    let settings = PassSettings {
        images: 12,
        time_limit: None,
        data: None,
    };
    let written = |run: &Path| {
        let file = run.join(FILE);
        write_after_training(run, &file, &settings, &Device::default(), &|_, _| ()).unwrap()
    };
    let shown = |run: &Path| {
        let files = fs::read_dir(run.join("tensorboard")).unwrap();
        let events = files.map(|file| fs::read(file.unwrap().path()).unwrap());
        let tag = b"kept patches/";
        let count = |bytes: Vec<u8>| bytes.windows(tag.len()).filter(|at| at == tag).count();
        events.map(count).sum::<usize>()
    };
    let (_folder, run) = copied("run");
    let done = written(&run);
    assert!(done.pictures.is_ok() && done.page.is_ok(), "{done:?}");
    let page = fs::read_to_string(run.join(FILE)).unwrap();
    assert!(page.contains("12 images of 40, drawn at random"));
    assert_eq!(shown(&run), 8);

    let (_folder, run) = copied("in-the-way");
    fs::create_dir_all(run.join(FILE).join("full")).unwrap();
    let done = written(&run);
    assert!(done.pictures.is_ok() && done.page.is_err(), "{done:?}");
    assert_eq!(shown(&run), 8);

    let (_folder, run) = copied("without-weights");
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let done = written(&run);
    assert!(done.pictures.is_err() && done.page.is_ok(), "{done:?}");
}
