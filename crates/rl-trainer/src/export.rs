use std::fs;
use std::path::Path;

use apt_data::Normalization;
use apt_vit_model::{
    ExportDetails, ExportNaming, ImageSize, NamedTensors, export, write_safetensors,
};
use burn::nn::Linear;
use serde_json::json;

use crate::run_folder::{RunDescription, to_json};
use crate::{PruningVit, TrainerError};

/// Writes a trained model into `folder`, for other frameworks to load: `model.safetensors` and
/// `config.json` under the names of `naming`, with Hugging Face's also `preprocessor_config.json`,
/// and beside them `agents.safetensors` and `aptvit.json`, which say what the agents are.
///
/// The agents' tensors are `<block>.<layer>.weight`, `[outputs, inputs]`, and `<block>.<layer>.bias`,
/// for the layers `query`, `key`, `value` and `fc`.
///
/// # Errors
///
/// Where the framework has no such model, or a file cannot be written.
pub fn export_model(
    model: &PruningVit,
    description: &RunDescription,
    naming: ExportNaming,
    folder: &Path,
) -> Result<(), TrainerError> {
    let Normalization { mean, std } = description.normalization;
    let details = ExportDetails {
        class_names: &description.class_names,
        mean,
        std,
    };
    let exported = export(&model.vit, model.config(), naming, details)?;
    if folder.join("model.safetensors").exists() {
        return Err(TrainerError::RunFolder {
            path: folder.to_path_buf(),
            reason: "holds a model already; name another folder".into(),
        });
    }
    fs::create_dir_all(folder).map_err(TrainerError::io(folder, "create"))?;
    write_safetensors(&folder.join("model.safetensors"), &exported.tensors)?;
    write_safetensors(&folder.join("agents.safetensors"), &agents(model))?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(TrainerError::io(&path, "write"))
    };
    let description = RunDescription {
        data: None,
        ..description.clone()
    };
    write("aptvit.json", &to_json(&description))?;
    if naming == ExportNaming::HuggingFace {
        let ImageSize { height, width } = description.model.image_size;
        let preprocessor = json!({
            "do_normalize": true,
            "do_rescale": true,
            "do_resize": true,
            "image_mean": mean,
            "image_processor_type": "ViTImageProcessor",
            "image_std": std,
            "resample": 2,
            "rescale_factor": 1.0 / 255.0,
            "size": { "height": height, "width": width },
        });
        write("preprocessor_config.json", &to_json(&preprocessor))?;
    }
    write("config.json", &to_json(&exported.config))
}

fn agents(model: &PruningVit) -> NamedTensors {
    let mut tensors = NamedTensors::new();
    let agents = model.agents.agents.iter().zip(&model.agents.layers);
    for (agent, block) in agents {
        for (name, layer) in [
            ("query", &agent.query),
            ("key", &agent.key),
            ("value", &agent.value),
            ("fc", &agent.fc),
        ] {
            add(&mut tensors, &format!("{block}.{name}"), layer);
        }
    }
    tensors
}

fn add(tensors: &mut NamedTensors, name: &str, layer: &Linear) {
    let [inputs, outputs] = layer.weight.dims();
    let weight = layer.weight.val().transpose().into_data();
    let weight = weight.iter::<f32>().collect();
    tensors.insert(format!("{name}.weight"), (vec![outputs, inputs], weight));
    if let Some(bias) = &layer.bias {
        let bias = bias.val().into_data().iter::<f32>().collect();
        tensors.insert(format!("{name}.bias"), (vec![outputs], bias));
    }
}
