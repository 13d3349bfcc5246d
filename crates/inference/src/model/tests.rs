use super::*;
use crate::description::FORMAT;
use apt_data::Normalization;
use apt_vit_model::VitPreset;

fn parts(device: &Device) -> Parts {
    device.seed(1);
    let model = VitPreset::Tiny32.config();
    let policy = PolicyConfig::named("pairs").unwrap();
    Parts {
        pruning: PruningVit::init(&model, &policy, device).unwrap(),
        description: Description {
            format: FORMAT,
            class_names: (0..model.num_classes)
                .map(|class| class.to_string())
                .collect(),
            model,
            policy,
            flops: vec![0.6],
            dtype: Precision::F32,
            normalization: Normalization::HALF,
            transform: Default::default(),
            steps_per_epoch: Some(1),
            data: None,
        },
        checkpoint: "epoch 1".into(),
        budgets: Budgets::default(),
        source: ModelSource::Run,
    }
}

#[test]
fn another_precision_gives_nearly_the_same_answer() {
    let device = Device::default();
    if !Precision::Bf16.is_supported(&device) {
        return;
    }
    let images = Tensor::ones([2, 3, 32, 32], &device);
    let logits = |precision| -> Vec<f32> {
        let mut model = Model::new(parts(&device), precision).unwrap();
        let logits = model.select(Selection::All).forward(images.clone()).logits;
        logits.into_data().iter::<f32>().collect()
    };
    let (full, half) = (logits(None), logits(Some(Precision::Bf16)));
    for (full, half) in full.iter().zip(&half) {
        assert!((full - half).abs() < 0.05, "{full} {half}");
    }
}

#[test]
fn an_image_whose_logits_are_no_numbers_has_no_answer_and_the_others_have_one() {
    let device = Device::default();
    let dense = PolicyConfig::named("dense").unwrap();
    let model = Model::new(parts(&device), None).unwrap();
    let model = model.with_policy(dense).unwrap();
    let dark = |value| Tensor::<4>::full([1, 3, 32, 32], value, &device);
    let images = Tensor::cat(vec![dark(0.0), dark(f32::NAN), dark(1.0)], 0);
    let answers = model.answers(model.forward(images), 1);
    let answered: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(answered, [true, false, true]);
    let error = answers[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("logits for it are NaN"), "{error}");
    let black = RgbImage {
        width: 2,
        height: 2,
        pixels: vec![0; 12],
    };
    let features = model.embed(&[black]).remove(0).unwrap();
    assert_eq!(features.len(), model.description().model.hidden_size);
}

#[test]
fn only_a_policy_that_was_trained_has_to_be_calibrated() {
    let device = Device::default();
    let mut model = Model::new(parts(&device), None).unwrap();
    let error = model.prune_to(0.6).unwrap_err().to_string();
    assert!(error.contains("aptvit calibrate"), "{error}");
    let policy = PolicyConfig::named("pairs").unwrap();
    let mut fresh = model.clone().with_policy(policy).unwrap();
    fresh.prune_to(0.6).unwrap();
    assert!(fresh.prune_to(60.0).is_err());
    // What fails leaves the model as it was.
    let dense = PolicyConfig::named("dense").unwrap();
    let mut dense = model.with_policy(dense).unwrap();
    assert!(dense.prune_to(0.01).is_err());
    assert_eq!(dense.description().policy.name(), "dense");
}
