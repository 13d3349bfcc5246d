use super::*;

fn folder(epochs: &[usize]) -> (tempfile::TempDir, CheckpointFolder) {
    let folder = tempfile::tempdir().unwrap();
    for epoch in epochs {
        for part in PARTS {
            fs::write(folder.path().join(format!("{part}-{epoch}.bpk")), "").unwrap();
        }
    }
    let checkpoints = CheckpointFolder::new(folder.path().to_path_buf(), 10);
    (folder, checkpoints)
}

#[test]
fn the_best_epoch_is_that_of_the_saved_scores() {
    let (_folder, checkpoints) = folder(&[1, 2, 3]);
    for (epoch, dense, pruned) in [(1, 0.5, 0.9), (2, 0.8, 0.9), (3, 0.7, 0.1)] {
        let scores = EpochScores {
            dense_accuracy: dense,
            pruned_accuracy: pruned,
        };
        checkpoints.save_scores(epoch, scores).unwrap();
    }
    let chosen = |choice| checkpoints.choose(choice).unwrap().epoch;
    assert_eq!(chosen(Choice::BestPruned), Some(1));
    assert_eq!(chosen(Choice::BestDense), Some(2));
    assert_eq!(chosen(Choice::Last), Some(3));
}

#[test]
fn without_scores_the_best_is_refused_and_the_newest_is_there() {
    let (folder, checkpoints) = folder(&[1, 2]);
    let refused = |choice| checkpoints.choose(choice).unwrap_err().to_string();
    assert!(refused(Choice::BestDense).contains("--checkpoint last"));
    fs::write(folder.path().join(SCORES), "{\"format\": 1").unwrap();
    assert!(refused(Choice::BestPruned).contains("damaged"));
    assert_eq!(checkpoints.choose(Choice::Last).unwrap().epoch, Some(2));
}

/// Four epochs, of which the second is the best.
fn scored() -> (tempfile::TempDir, CheckpointFolder) {
    let (folder, checkpoints) = folder(&[1, 2, 3, 4]);
    for (epoch, accuracy) in [(1, 0.2), (2, 0.9), (3, 0.4), (4, 0.5)] {
        let scores = EpochScores {
            dense_accuracy: accuracy,
            pruned_accuracy: accuracy,
        };
        checkpoints.save_scores(epoch, scores).unwrap();
    }
    (folder, checkpoints)
}

#[test]
fn the_best_needs_its_model_alone_and_never_gives_way_to_the_next() {
    let (folder, checkpoints) = scored();
    let remove = |name: &str| fs::remove_file(folder.path().join(name)).unwrap();
    for name in ["optim-2.bpk", "scheduler-2.bpk", "optim-1.bpk"] {
        remove(name);
        let best = checkpoints.choose(Choice::BestPruned).unwrap();
        assert_eq!(best.epoch, Some(2), "{name}");
    }
    checkpoints.check_best(4).unwrap();
    remove("model-2.bpk");
    for message in [
        checkpoints.choose(Choice::BestPruned).unwrap_err(),
        checkpoints.choose(Choice::BestDense).unwrap_err(),
        checkpoints.check_best(4).unwrap_err(),
    ] {
        let message = message.to_string();
        for word in ["model-2.bpk", "is missing", "--checkpoint last"] {
            assert!(message.contains(word), "{word}: {message}");
        }
    }
    assert_eq!(checkpoints.choose(Choice::Last).unwrap().epoch, Some(4));
    // Where no model is left, the best one is named, too.
    for epoch in [1, 3, 4] {
        remove(&format!("model-{epoch}.bpk"));
    }
    let message = checkpoints.choose(Choice::BestPruned).unwrap_err();
    assert!(message.to_string().contains("model-2.bpk"), "{message}");
}

#[test]
fn a_best_epoch_without_a_model_is_not_answered_by_a_pause() {
    let (folder, checkpoints) = folder(&[1]);
    let scores = EpochScores {
        dense_accuracy: 0.5,
        pruned_accuracy: 0.5,
    };
    let pause = folder.path().join("pause-14");
    fs::create_dir(&pause).unwrap();
    for part in PARTS {
        fs::write(pause.join(format!("{part}.bpk")), "").unwrap();
    }
    checkpoints.save_scores(1, scores).unwrap();
    // As a kill leaves it: the scores of an epoch whose checkpoint is not there yet.
    checkpoints.save_scores(2, scores).unwrap();
    let best = checkpoints.choose(Choice::BestPruned).unwrap();
    assert_eq!(best.epoch, Some(1));
    fs::remove_file(folder.path().join("model-1.bpk")).unwrap();
    let message = checkpoints.choose(Choice::BestPruned).unwrap_err();
    assert!(message.to_string().contains("model-1.bpk"), "{message}");
}

#[test]
fn an_epoch_without_scores_leaves_the_best_unknown() {
    let (folder, checkpoints) = scored();
    let file = folder.path().join(SCORES);
    let text = fs::read_to_string(&file).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["epochs"].as_object_mut().unwrap().remove("2");
    fs::write(&file, value.to_string()).unwrap();
    let changed = checkpoints.choose(Choice::BestPruned).unwrap_err();
    assert!(
        changed.to_string().contains("expected crc32c:"),
        "{changed}"
    );
    value.as_object_mut().unwrap().remove("checksum");
    fs::write(&file, value.to_string()).unwrap();
    for message in [
        checkpoints.choose(Choice::BestPruned).unwrap_err(),
        checkpoints.check_best(2).unwrap_err(),
    ] {
        assert!(message.to_string().contains("epoch 2"), "{message}");
    }
    checkpoints.check_best(1).unwrap();
    // As the error of a missing model says.
    fs::remove_file(folder.path().join("model-2.bpk")).unwrap();
    let next = checkpoints.choose(Choice::BestPruned).unwrap();
    assert_eq!(next.epoch, Some(4));
}

#[test]
fn equal_scores_stay_equal_however_often_they_are_read_and_written() {
    let (_folder, checkpoints) = folder(&[1, 2, 3]);
    // Up to seventeen digits, of which a reader may take the last one for another.
    for accuracy in (1..41).map(|right| f64::from(right) / 41.0) {
        let scores = EpochScores {
            dense_accuracy: accuracy,
            pruned_accuracy: 1.0 - accuracy,
        };
        for epoch in 1..=3 {
            checkpoints.save_scores(epoch, scores).unwrap();
        }
        let saved = checkpoints.scores().unwrap();
        assert!(saved.values().all(|found| *found == saved[&1]), "{saved:?}");
        let best = checkpoints.choose(Choice::BestDense).unwrap();
        assert_eq!(best.epoch, Some(1));
    }
}
