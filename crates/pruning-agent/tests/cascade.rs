//! A cascade: images that are not certain of their answer start over.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use apt_pruning_agent::{AgentError, AnyPolicy, PolicyConfig, Selection, reducer_of_each};
use apt_vit_model::{
    ExecutionMode, RunSettings, TokenReducer, Vit, VitConfig, VitOutput, VitPreset, vit_flops,
};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Distribution, Tensor, Tolerance};

const BATCH: usize = 24;

fn model() -> (Vit, VitConfig, Tensor<4>) {
    let device = Device::default();
    device.seed(3);
    let config = VitPreset::Tiny32.config();
    let vit = config.init(&device).unwrap();
    let vit = vit.map_head(|weight| weight.random_like(Distribution::Normal(0.0, 0.2)));
    let images = Tensor::<4>::random([BATCH, 3, 32, 32], Distribution::Default, &device);
    (vit, config, images)
}

fn cascade(config: &VitConfig) -> Result<AnyPolicy, AgentError> {
    PolicyConfig::named("cascade")?.init(config, &Device::default())
}

fn run(vit: &Vit, images: &Tensor<4>, reducer: &dyn TokenReducer) -> VitOutput {
    let settings = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(reducer),
    };
    vit.forward(images.clone(), settings)
}

fn certainties(output: &VitOutput) -> Vec<f32> {
    let certain = softmax(output.logits.clone(), 1).max_dim(1);
    certain.into_data().iter::<f32>().collect()
}

#[test]
fn images_below_the_threshold_and_no_others_get_the_dense_answer() {
    let (vit, config, images) = model();
    let policy = cascade(&config).unwrap();
    let kept = policy.kept_for(&config, 0.6).unwrap();
    let seeds = vec![0; BATCH];
    let tome = Selection::Kept { kept: kept.clone() };
    let first = run(&vit, &images, &*policy.reducer(&tome, &seeds));
    let dense = vit.forward(images.clone(), RunSettings::DENSE);
    let certain = certainties(&first);
    let mut sorted = certain.clone();
    sorted.sort_by(f32::total_cmp);
    let certainty = f64::from(sorted[BATCH / 3] + sorted[BATCH / 3 + 1]) / 2.0;
    let selection = Selection::Cascade { kept, certainty };
    let found = run(&vit, &images, &*policy.reducer(&selection, &seeds));
    let whole = vit_flops(&config, &[], 0);
    let mut again = 0;
    for (image, &certain) in certain.iter().enumerate() {
        let doubted = f64::from(certain) < certainty;
        let wanted = if doubted { &dense } else { &first };
        let row = |output: &VitOutput| output.logits.clone().narrow(0, image, 1).into_data();
        row(&found).assert_approx_eq(&row(wanted), Tolerance::<f32>::absolute(1e-4));
        let flops = vit_flops(&config, &found.trace, image);
        assert_eq!(flops > whole, doubted, "image {image}");
        let own = policy.trace_flops(&config, &found.trace, image);
        assert!(own > 0);
        again += usize::from(doubted);
    }
    assert_eq!(again, BATCH / 3 + 1);
}

#[test]
fn thresholds_of_images_in_one_batch_are_their_own() {
    let (vit, config, images) = model();
    let policy = cascade(&config).unwrap();
    let kept = policy.kept_for(&config, 0.7).unwrap();
    let at = |certainty| Selection::Cascade {
        kept: kept.clone(),
        certainty,
    };
    let [never, always] = [at(0.0), at(1.1)];
    let of_image = |image: usize| {
        if image.is_multiple_of(2) {
            &never
        } else {
            &always
        }
    };
    let selections: Vec<&Selection> = (0..BATCH).map(of_image).collect();
    let reducer = reducer_of_each(&*policy, &selections, &[0; BATCH]);
    let trace = run(&vit, &images, &*reducer).trace;
    let last = trace.last().unwrap();
    let odd: Vec<bool> = (0..BATCH).map(|image| !image.is_multiple_of(2)).collect();
    assert_eq!(last.restarted, odd);
}

#[test]
fn a_model_without_classes_and_a_first_pass_of_nothing_are_refused() {
    let mut config = VitPreset::Tiny32.config();
    config.num_classes = 0;
    let message = cascade(&config).unwrap_err().to_string();
    assert!(message.contains("head"), "{message}");
    let config = VitPreset::Tiny32.config();
    for first in [0.0, -1.0, 1.5] {
        let settings = [("first".to_string(), first.into())];
        let chosen = PolicyConfig::with_settings("cascade", settings.into_iter().collect());
        let refused = chosen.unwrap().init(&config, &Device::default());
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("first"), "{message}");
    }
}
