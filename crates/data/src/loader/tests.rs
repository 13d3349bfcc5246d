use super::*;
use crate::eval_image;
use crate::samples::{class_folders, picture, png, write_files};
use crate::{DataSource, Progress};

fn dataset(count: usize) -> ImageDataset {
    let images = (0..count).map(|i| (picture(10, 10, i as u8), i % 3));
    let names = ["a", "b", "c"].map(String::from).into();
    ImageDataset::from_images(names, images.collect()).unwrap()
}

fn settings(workers: usize) -> LoaderSettings {
    LoaderSettings {
        batch_size: 4,
        image_size: [8, 8],
        transform: TrainTransform::default(),
        normalization: Normalization::HALF,
        seed: 9,
        workers,
    }
}

/// Everything of a batch that can be compared.
fn content(batch: Batch) -> (u64, Vec<usize>, Vec<usize>, Vec<i64>, Vec<u32>) {
    let bits = batch
        .images
        .into_data()
        .convert::<f32>()
        .try_into_vec::<f32>();
    let labels = batch
        .labels
        .into_data()
        .convert::<i64>()
        .try_into_vec::<i64>();
    (
        batch.place.number,
        batch.indices,
        batch.targets,
        labels.unwrap(),
        bits.unwrap().into_iter().map(f32::to_bits).collect(),
    )
}

fn epoch(loader: &dyn DataLoader<Batch>) -> Vec<Batch> {
    loader.iter().map(Result::unwrap).collect()
}

fn epochs(loader: &dyn DataLoader<Batch>, count: usize) -> Vec<Batch> {
    (0..count).flat_map(|_| epoch(loader)).collect()
}

#[test]
fn batches_are_bit_identical_for_any_number_of_workers() {
    let run = |workers| {
        let loader = TrainLoader::new(dataset(10), settings(workers), 5, 0);
        let batches = epochs(&loader, 3).into_iter().map(content);
        batches.collect::<Vec<_>>()
    };
    let inline = run(0);
    assert_eq!(inline.len(), 15);
    assert!(inline == run(1) && inline == run(2) && inline == run(7));
}

#[test]
fn a_resumed_stream_is_the_tail_of_the_unbroken_one() {
    let unbroken = epochs(&TrainLoader::new(dataset(10), settings(0), 5, 0), 3);
    let unbroken: Vec<_> = unbroken.into_iter().map(content).collect();
    for start in [1, 5, 7] {
        let loader = TrainLoader::new(dataset(10), settings(2), 5, start);
        let first = epoch(&loader);
        assert_eq!(first.len() as u64, 5 - start % 5);
        let rest = epochs(&loader, 1);
        let resumed = first.into_iter().chain(rest).map(content);
        let start = start as usize;
        let tail: Vec<_> = resumed.collect();
        assert!(tail == unbroken[start..start + tail.len()], "from {start}");
    }
}

#[test]
fn each_pass_shows_each_image_once_across_batches_and_epochs() {
    let batches = epochs(&TrainLoader::new(dataset(10), settings(1), 5, 0), 2);
    let indices: Vec<_> = batches
        .into_iter()
        .flat_map(|batch| batch.indices)
        .collect();
    for pass in indices.chunks(10) {
        let mut pass = pass.to_vec();
        pass.sort_unstable();
        assert_eq!(pass, (0..10).collect::<Vec<_>>());
    }
    assert_ne!(indices[..10], indices[10..20]);
}

#[test]
fn an_image_changes_from_pass_to_pass() {
    let loader = TrainLoader::new(dataset(1), settings(0), 1, 0);
    let (.., images) = content(epoch(&loader).remove(0));
    let size = 3 * 8 * 8;
    assert_ne!(images[..size], images[size..2 * size]);
}

#[test]
fn an_iterator_dropped_early_counts_as_its_epoch() {
    let loader = TrainLoader::new(dataset(10), settings(2), 5, 2);
    assert_eq!(loader.iter().next().unwrap().unwrap().place.number, 2);
    assert_eq!(epoch(&loader)[0].place.number, 5);
}

#[test]
fn progress_counts_images_and_ends_complete() {
    let loader = TrainLoader::new(dataset(10), settings(0), 5, 3);
    assert_eq!(loader.num_items(), 20);
    let mut batches = loader.iter();
    assert_eq!(batches.progress().items_processed, 12);
    while batches.next().is_some() {}
    assert!(batches.progress().is_completed());

    let loader = EvalLoader::new(dataset(10), 4, [8, 8], Normalization::HALF, 0);
    let mut batches = loader.iter();
    assert_eq!(batches.by_ref().count(), 3);
    assert!(batches.progress().is_completed());
    assert_eq!(batches.progress().items_total, loader.num_items());
}

#[test]
fn a_loader_on_another_device_goes_on_where_this_one_is() {
    let loader = TrainLoader::new(dataset(10), settings(0), 5, 0);
    let moved = loader.to_device(&Device::default());
    assert_eq!(epoch(&loader)[0].place.number, 0);
    assert_eq!(epoch(&*moved)[0].place.number, 5);
    assert_eq!(epoch(&loader)[0].place.number, 10);
}

#[test]
fn slices_make_the_batches_together_that_one_loader_makes() {
    let whole = TrainLoader::new(dataset(10), settings(0), 6, 3);
    let items = whole.num_items();
    for devices in [2, 3, 4] {
        let step = items / devices;
        let slices: Vec<_> = (0..devices)
            .map(|device| {
                if device + 1 == devices {
                    whole.slice(device * step, items)
                } else {
                    whole.slice(device * step, (device + 1) * step)
                }
            })
            .collect();
        let count: usize = slices.iter().map(|slice| slice.num_items()).sum();
        assert_eq!(count, items);
        // Fresh loaders: each call of `iter` is an epoch of its own.
        let whole = TrainLoader::new(dataset(10), settings(0), 6, 3);
        for _ in 0..2 {
            let mut parts: Vec<_> = slices.iter().map(|slice| epoch(&**slice)).collect();
            for batch in epoch(&whole).into_iter().rev() {
                let parts: Vec<Batch> = parts.iter_mut().map(|part| part.pop().unwrap()).collect();
                let images: Vec<_> = parts.iter().map(|part| part.images.clone()).collect();
                let images = burn::Tensor::cat(images, 0);
                assert_eq!(images.into_data(), batch.images.into_data());
                let indices: Vec<_> = parts.iter().flat_map(|part| part.indices.clone()).collect();
                assert_eq!(indices, batch.indices);
                let share: f64 = parts.iter().map(|part| part.place.share()).sum();
                assert!((share - 1.0).abs() < 1e-9);
                let mut next = 0;
                for part in &parts {
                    assert_eq!(part.place.number, batch.place.number);
                    assert_eq!(part.place.part.start, next);
                    next = part.place.part.end;
                }
            }
            assert!(parts.iter().all(Vec::is_empty));
        }
    }
}

#[test]
fn evaluation_goes_in_order_and_its_last_batch_is_smaller() {
    for workers in [0, 2] {
        let loader = EvalLoader::new(dataset(10), 4, [8, 8], Normalization::HALF, workers);
        let batches = epoch(&loader);
        assert_eq!(batches[1].images.dims(), [4, 3, 8, 8]);
        assert_eq!(batches[2].images.dims(), [2, 3, 8, 8]);
        let numbers: Vec<_> = batches.iter().map(|batch| batch.place.number).collect();
        assert_eq!(numbers, [0, 1, 2]);
        let indices: Vec<_> = batches
            .into_iter()
            .flat_map(|batch| batch.indices)
            .collect();
        assert_eq!(indices, (0..10).collect::<Vec<_>>());
        // A second pass is the same.
        assert_eq!(epoch(&loader).len(), 3);
    }
}

#[test]
fn evaluated_pixels_and_labels_are_the_datasets() {
    let dataset = dataset(5);
    let loader = EvalLoader::new(dataset.clone(), 5, [10, 10], Normalization::HALF, 1);
    let (_, _, targets, labels, images) = content(epoch(&loader).remove(0));
    assert_eq!(targets, [0, 1, 2, 0, 1]);
    assert_eq!(labels, [0, 1, 2, 0, 1]);
    let mut expected = vec![0.0; 300];
    eval_image(
        &dataset.image(3).unwrap(),
        [10, 10],
        &EvalTransform::default(),
        &Normalization::HALF,
        &mut expected,
    );
    let expected: Vec<_> = expected.into_iter().map(f32::to_bits).collect();
    assert_eq!(images[3 * 300..4 * 300], expected);
}

#[test]
fn evaluation_slices_keep_the_places_in_the_dataset() {
    let loader = EvalLoader::new(dataset(10), 4, [8, 8], Normalization::HALF, 0);
    let slice = loader.slice(5, 10);
    assert_eq!(slice.num_items(), 5);
    assert_eq!(epoch(&*slice)[0].indices, [5, 6, 7, 8]);
}

#[test]
fn an_image_that_breaks_after_loading_makes_its_batch_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = class_folders(&["ant", "bee"], 3, 1);
    files.push(("test/ant/large.png".into(), png(&picture(100, 100, 0))));
    write_files(folder.path(), &files);
    let source = DataSource::Folder {
        test_fraction: 0.1,
        seed: 0,
    };
    let test = source
        .load(Some(folder.path()), Progress::Hidden)
        .unwrap()
        .test;
    std::fs::write(folder.path().join("test/ant/large.png"), "gone").unwrap();
    for workers in [0, 2] {
        let loader = EvalLoader::new(test.clone(), 1, [8, 8], Normalization::HALF, workers);
        let (good, bad): (Vec<_>, Vec<_>) = loader.iter().partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (2, 1));
        let error = bad.into_iter().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("test/ant/large.png"), "{error}");
    }
}
