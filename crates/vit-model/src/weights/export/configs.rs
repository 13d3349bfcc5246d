//! What the frameworks are told of an exported model.

use serde_json::{Map, Value, json};

use crate::weights::naming::Naming;
use crate::weights::namings::{HF_DEIT, HF_DINOV2, HF_DISTILLED, HF_VIT, TIMM};
use crate::{Activation, Distillation, ImageSize, VitConfig, VitError};

/// What of an exported model's `config.json` the model itself does not know.
#[derive(Clone, Copy, Debug)]
pub struct ExportDetails<'a> {
    /// The classes, in the order of the logits.
    pub class_names: &'a [String],
    /// Mean of red, green and blue in the images it was trained on.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
}

/// timm's `config.json`: an architecture, and what is different from it.
pub(super) fn timm_config(config: &VitConfig, details: ExportDetails<'_>) -> Value {
    let ImageSize { height, width } = config.image_size;
    let architecture = match (&config.stem, config.distillation) {
        (Some(_), _) => "vit_base_r50_s16_224",
        (None, Some(_)) => "deit_base_distilled_patch16_224",
        (None, None) => "vit_base_patch16_224",
    };
    let mut arguments = Map::new();
    let mut set = |name: &str, value: Value| arguments.insert(name.into(), value);
    set("img_size", json!([height, width]));
    if config.stem.is_none() {
        set("patch_size", json!(config.patch_size));
    }
    set("embed_dim", json!(config.hidden_size));
    set("depth", json!(config.num_layers));
    set("num_heads", json!(config.num_heads));
    set("mlp_ratio", mlp_ratio(config));
    if config.layer_scale.is_some() {
        set("init_values", json!(config.layer_scale));
    }
    if config.activation == Activation::GeluTanh {
        set("act_layer", json!("gelu_tanh"));
    }
    let classifier = match config.distillation {
        Some(Distillation::TokenAndHead) => json!(["head", "head_dist"]),
        _ => json!("head"),
    };
    if config.layer_norm_eps != TIMM.layer_norm_eps {
        tracing::warn!(
            "timm's models have a layer-norm epsilon of {:e}, this one {:e}: its logits there may \
             differ a little",
            TIMM.layer_norm_eps,
            config.layer_norm_eps
        );
    }
    json!({
        "architecture": architecture,
        // For whom reads more than timm does.
        "layer_norm_eps": config.layer_norm_eps,
        "num_classes": config.num_classes,
        "num_features": config.hidden_size,
        "global_pool": "token",
        "label_names": details.class_names,
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "aptvit",
            "custom_load": false,
            "input_size": [3, height, width],
            "fixed_input_size": true,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": details.mean,
            "std": details.std,
            "num_classes": config.num_classes,
            "pool_size": null,
            "first_conv": "patch_embed.proj",
            "classifier": classifier,
        },
    })
}

/// The MLP's width by the tokens'; the frameworks multiply and cut off what is behind the point.
fn mlp_ratio(config: &VitConfig) -> Value {
    let (d, m) = (config.hidden_size, config.mlp_dim);
    if m.is_multiple_of(d) {
        json!(m / d)
    } else {
        json!((m as f64 + 0.5) / d as f64)
    }
}

/// Which of Hugging Face's models it is: its names, its backbone's name, its class.
pub(super) fn hugging_face(
    config: &VitConfig,
) -> Result<(&'static Naming, &'static str, &'static str), VitError> {
    let refuse = |what| {
        Err(VitError::NotExportable {
            framework: "Hugging Face",
            what,
            other: "timm's",
        })
    };
    if config.stem.is_some() {
        return refuse("a stem of convolutions");
    }
    let ImageSize { height, width } = config.image_size;
    if config.layer_scale.is_some() && height != width {
        return refuse("LayerScale for images that are not square");
    }
    match (config.layer_scale, config.distillation) {
        (Some(_), Some(_)) => refuse("LayerScale and a distillation token"),
        (Some(_), None) => Ok((&HF_DINOV2, "dinov2", "Dinov2ForImageClassification")),
        (None, None) => Ok((&HF_VIT, "vit", "ViTForImageClassification")),
        (None, Some(Distillation::Token)) => Ok((&HF_DEIT, "deit", "DeiTForImageClassification")),
        (None, Some(Distillation::TokenAndHead)) => Ok((
            &HF_DISTILLED,
            "deit",
            "DeiTForImageClassificationWithTeacher",
        )),
    }
}

pub(super) fn hugging_face_config(
    config: &VitConfig,
    class: &str,
    details: ExportDetails<'_>,
) -> Value {
    let classes = details.class_names.iter().enumerate();
    let (mut names, mut numbers) = (Map::new(), Map::new());
    for (number, name) in classes {
        names.insert(number.to_string(), json!(name));
        numbers.insert(name.clone(), json!(number));
    }
    let activation = match config.activation {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    let mut json = json!({
        "architectures": [class],
        "dtype": "float32",
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": activation,
        "hidden_dropout_prob": 0.0,
        "hidden_size": config.hidden_size,
        "id2label": names,
        "image_size": config.image_size,
        "label2id": numbers,
        "layer_norm_eps": config.layer_norm_eps,
        "num_attention_heads": config.num_heads,
        "num_channels": 3,
        "num_hidden_layers": config.num_layers,
        "patch_size": config.patch_size,
        "qkv_bias": true,
    });
    if let Value::Object(json) = &mut json {
        if class.starts_with("Dinov2") {
            json.insert("model_type".into(), json!("dinov2"));
            json.insert("mlp_ratio".into(), mlp_ratio(config));
            json.insert("layerscale_value".into(), json!(config.layer_scale));
            json.insert("use_mask_token".into(), json!(false));
        } else {
            let model = if class.starts_with("DeiT") {
                "deit"
            } else {
                "vit"
            };
            json.insert("model_type".into(), json!(model));
            json.insert("intermediate_size".into(), json!(config.mlp_dim));
        }
    }
    json
}
