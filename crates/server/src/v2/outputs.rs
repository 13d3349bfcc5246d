//! The outputs of a request of the Open Inference Protocol, in JSON or binary.

use apt_inference::{Model, probabilities};
use axum::http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::request::{Output, Said};
use crate::job::{Reply, Task};
use crate::json::json as json_response;
use crate::refusal::Refusal;

/// The header that says where the binary tensors begin.
pub(crate) const HEADER_LENGTH: &str = "inference-header-content-length";

pub(crate) const LOGITS: &str = "logits";
pub(crate) const PROBABILITIES: &str = "probabilities";
pub(crate) const EMBEDDING: &str = "embedding";

/// Values of an output.
enum Tensor {
    Numbers(Vec<f32>),
    Texts(Vec<String>),
}

/// The outputs that a request asks for; without any, the logits and the probabilities.
///
/// # Errors
///
/// Where there is no such output.
pub(crate) fn wanted(said: &Said) -> Result<(Task, Vec<Output>), Refusal> {
    let named = |name: &str| Output {
        name: name.into(),
        ..Output::default()
    };
    let outputs = match said.outputs.as_slice() {
        [] => vec![named(LOGITS), named(PROBABILITIES)],
        outputs => outputs.to_vec(),
    };
    let unknown = outputs
        .iter()
        .find(|output| ![LOGITS, PROBABILITIES, EMBEDDING].contains(&output.name.as_str()));
    if let Some(output) = unknown {
        let message = format!(
            "output `{}`: expected {LOGITS}, {PROBABILITIES} or {EMBEDDING}",
            output.name
        );
        return Err(Refusal::malformed(message));
    }
    let embeddings = outputs
        .iter()
        .filter(|output| output.name == EMBEDDING)
        .count();
    match embeddings {
        0 => Ok((Task::Classify, outputs)),
        count if count == outputs.len() => Ok((Task::Embed, outputs)),
        _ => Err(Refusal::malformed(format!(
            "output `{EMBEDDING}`: ask for it in a request of its own"
        ))),
    }
}

/// The response.
pub(crate) fn response(
    name: &str,
    said: &Said,
    outputs: &[Output],
    replies: &[Reply],
    model: &Model,
) -> Result<Response, Refusal> {
    let all_binary = is_true(&said.parameters, "binary_data_output");
    let (mut entries, mut binary) = (Vec::new(), Vec::new());
    for output in outputs {
        let (tensor, width) = values(output, replies, model)?;
        let kind = match &tensor {
            Tensor::Numbers(_) => "FP32",
            Tensor::Texts(_) => "BYTES",
        };
        let shape = [replies.len(), width];
        let mut entry = json!({ "name": output.name, "datatype": kind, "shape": shape });
        let binary_here = match output.parameters.get("binary_data") {
            Some(value) => value == true,
            None => all_binary,
        };
        if binary_here {
            let bytes = in_bytes(&tensor);
            entry["parameters"] = json!({ "binary_data_size": bytes.len() });
            binary.extend(bytes);
        } else {
            entry["data"] = match tensor {
                Tensor::Numbers(numbers) => json!(numbers),
                Tensor::Texts(texts) => json!(texts),
            };
        }
        entries.push(entry);
    }
    let mean = |of: fn(&Reply) -> f64| replies.iter().map(of).sum::<f64>() / replies.len() as f64;
    let mut head = json!({
        "model_name": name,
        "model_version": super::metadata::VERSION,
        "parameters": {
            "flops_share": mean(|reply| reply.reduced.flops_share),
            "queue_ms": 1e3 * mean(|reply| reply.queued.as_secs_f64()),
            "compute_ms": 1e3 * mean(|reply| reply.computed.as_secs_f64()),
        },
        "outputs": entries,
    });
    if let Some(id) = &said.id {
        head["id"] = json!(id);
    }
    if binary.is_empty() {
        return Ok(json_response(StatusCode::OK, &head));
    }
    let mut body = head.to_string().into_bytes();
    let length = HeaderValue::from(body.len());
    body.extend(binary);
    let headers = [
        (HeaderName::from_static(HEADER_LENGTH), length),
        (
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
    ];
    Ok((headers, body).into_response())
}

/// The values of an output, and how many each image has.
fn values(output: &Output, replies: &[Reply], model: &Model) -> Result<(Tensor, usize), Refusal> {
    let width = replies.first().map_or(0, |reply| reply.values.len());
    if let Some(asked) = output.parameters.get("classification") {
        let top = asked.as_u64().filter(|&top| top > 0);
        let top = top.filter(|_| output.name != EMBEDDING).ok_or_else(|| {
            let name = &output.name;
            Refusal::malformed(format!(
                "output `{name}`: classification = {asked}: expected how many classes"
            ))
        })?;
        let top = (top as usize).min(width);
        let probable = output.name == PROBABILITIES;
        let texts = replies.iter().flat_map(|reply| {
            let classes = model.top_classes(&reply.values, top).into_iter();
            classes.map(move |class| {
                let value = if probable {
                    class.probability
                } else {
                    reply.values[class.index]
                };
                format!("{value}:{}:{}", class.index, class.class)
            })
        });
        return Ok((Tensor::Texts(texts.collect()), top));
    }
    let numbers = replies.iter().flat_map(|reply| {
        if output.name == PROBABILITIES {
            probabilities(&reply.values)
        } else {
            reply.values.clone()
        }
    });
    Ok((Tensor::Numbers(numbers.collect()), width))
}

fn in_bytes(tensor: &Tensor) -> Vec<u8> {
    match tensor {
        Tensor::Numbers(numbers) => numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect(),
        Tensor::Texts(texts) => {
            let one =
                |text: &String| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
            texts.iter().flat_map(one).collect()
        }
    }
}

fn is_true(parameters: &Map<String, Value>, key: &str) -> bool {
    parameters.get(key).is_some_and(|value| value == true)
}
