//! A request of the Open Inference Protocol to images and outputs.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::tensor::{Values, numbers_of, texts_of};
use crate::job::Input;
use crate::refusal::Refusal;
use crate::upload::from_base64;

/// The input of pictures' files.
pub(crate) const PICTURES: &str = "image";
/// The input of preprocessed values.
pub(crate) const PIXELS: &str = "pixels";

/// The JSON of a request.
#[derive(Debug, Deserialize)]
pub struct InferRequest {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<InputTensor>,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Debug, Deserialize)]
struct InputTensor {
    name: String,
    shape: Vec<u64>,
    datatype: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(default)]
    data: Option<Values>,
}

/// An output that a request asks for.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Output {
    /// Its name.
    pub name: String,
    /// `binary_data` and `classification`.
    #[serde(default)]
    pub parameters: Map<String, Value>,
}

/// What a request says.
#[derive(Debug)]
pub struct Said {
    pub(crate) id: Option<String>,
    pub(crate) parameters: Map<String, Value>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) images: Vec<Input>,
}

impl InferRequest {
    /// Reads a body: JSON, and binary tensors behind its first `header` bytes where that is said. An image has `size`
    /// values: 3, height, width; a request has `most` images at most.
    ///
    /// # Errors
    ///
    /// Says what was found and what was expected.
    pub fn read(
        body: &Bytes,
        header: Option<usize>,
        size: [usize; 3],
        most: usize,
    ) -> Result<Said, Refusal> {
        let header = header.unwrap_or(body.len());
        if header > body.len() {
            return Err(Refusal::malformed(format!(
                "Inference-Header-Content-Length: {header}: the body has {} bytes",
                body.len()
            )));
        }
        let request: Self = serde_json::from_slice(&body[..header]).map_err(|error| {
            Refusal::malformed(format!(
                "the body is no request of the Open Inference Protocol: {error}"
            ))
        })?;
        let [input] = <[InputTensor; 1]>::try_from(request.inputs).map_err(|inputs| {
            Refusal::malformed(format!(
                "{} inputs: expected one, `{PICTURES}` or `{PIXELS}`",
                inputs.len()
            ))
        })?;
        let images = input.images(body.slice(header..), size, most)?;
        Ok(Said {
            id: request.id,
            parameters: request.parameters,
            outputs: request.outputs,
            images,
        })
    }
}

impl InputTensor {
    fn images(self, binary: Bytes, size: [usize; 3], most: usize) -> Result<Vec<Input>, Refusal> {
        let name = self.name.clone();
        let fault = |what: String| Refusal::malformed(format!("input `{name}`: {what}"));
        let said = self.parameters.get("binary_data_size");
        let said = said.map(|size| {
            size.as_u64()
                .ok_or_else(|| fault(format!("binary_data_size = {size}")))
        });
        let said = said.transpose()?;
        match said {
            Some(said) if said != binary.len() as u64 => {
                let found = binary.len();
                return Err(fault(format!(
                    "binary_data_size = {said}, and {found} bytes follow"
                )));
            }
            None if !binary.is_empty() => {
                let found = binary.len();
                return Err(fault(format!(
                    "{found} bytes follow, of which it says nothing"
                )));
            }
            _ => (),
        }
        let is_binary = said.is_some();
        let [channels, height, width] = size;
        let images = *self.shape.first().unwrap_or(&0);
        if images == 0 || images > most as u64 {
            return Err(fault(format!(
                "shape {:?}: expected 1 to {most} images",
                self.shape
            )));
        }
        let data = self.data.unwrap_or(Values::Empty);
        match (self.name.as_str(), self.datatype.as_str()) {
            (PICTURES, "BYTES") => {
                // A trailing 1 is how some clients write a column.
                if !matches!(self.shape.as_slice(), [_] | [_, 1]) {
                    return Err(fault(format!("shape {:?}: expected [images]", self.shape)));
                }
                let pictures = if is_binary {
                    let texts = texts_of(&binary).map_err(&fault)?;
                    texts
                        .into_iter()
                        .map(|text| binary.slice_ref(text))
                        .collect()
                } else {
                    match data {
                        Values::Texts(texts) => {
                            let files = texts.iter().map(|text| from_base64(text));
                            files.collect::<Result<Vec<Bytes>, _>>()?
                        }
                        _ => return Err(fault("data: expected pictures in base64".into())),
                    }
                };
                if pictures.len() as u64 != images {
                    let found = pictures.len();
                    return Err(fault(format!(
                        "{found} pictures, and shape {:?}",
                        self.shape
                    )));
                }
                Ok(pictures.into_iter().map(Input::Picture).collect())
            }
            (PIXELS, "FP32") => {
                let expected = [images, channels as u64, height as u64, width as u64];
                if self.shape != expected {
                    let found = &self.shape;
                    return Err(fault(format!(
                        "shape {found:?}: expected [images, {channels}, {height}, {width}]"
                    )));
                }
                let values = if is_binary {
                    numbers_of(&binary).map_err(&fault)?
                } else {
                    match data {
                        Values::Numbers(numbers) => numbers,
                        _ => return Err(fault("data: expected numbers".into())),
                    }
                };
                let each = channels * height * width;
                if values.len() != images as usize * each {
                    let found = values.len();
                    return Err(fault(format!("{found} values, and shape {:?}", self.shape)));
                }
                if values.iter().any(|value| !value.is_finite()) {
                    return Err(fault("a value that is no finite number".into()));
                }
                let images = values.chunks_exact(each);
                Ok(images
                    .map(|values| Input::Values(values.to_vec()))
                    .collect())
            }
            (PICTURES, other) => Err(fault(format!("datatype {other}: expected BYTES"))),
            (PIXELS, other) => Err(fault(format!("datatype {other}: expected FP32"))),
            _ => Err(fault(format!("expected `{PICTURES}` or `{PIXELS}`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SIZE: [usize; 3] = [3, 1, 2];

    fn read(json: &Value, binary: &[u8]) -> Result<Said, Refusal> {
        let head = json.to_string();
        let body = Bytes::from([head.as_bytes(), binary].concat());
        InferRequest::read(&body, Some(head.len()), SIZE, 4)
    }

    #[test]
    fn json_and_binary_say_the_same() {
        let values: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let shape = [2, 3, 1, 2];
        let text = json!({ "inputs": [{ "name": "pixels", "shape": shape, "datatype": "FP32", "data": values }] });
        let in_json = read(&text, b"").unwrap().images;
        let binary: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let size = json!({ "binary_data_size": binary.len() });
        let text = json!({ "inputs": [{ "name": "pixels", "shape": shape, "datatype": "FP32", "parameters": size }] });
        assert_eq!(read(&text, &binary).unwrap().images, in_json);
        assert_eq!(in_json[1], Input::Values(values[6..].to_vec()));
        let size = json!({ "binary_data_size": 7 });
        let text = json!({ "inputs": [{ "name": "image", "shape": [1], "datatype": "BYTES", "parameters": size }] });
        let pictures = read(&text, b"\x03\0\0\0abc").unwrap().images;
        assert_eq!(pictures, [Input::Picture("abc".into())]);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_named() {
        let input = |name: &str, shape: &[u64], kind: &str, data: Value| json!({ "inputs": [{ "name": name, "shape": shape, "datatype": kind, "data": data }] });
        for (request, word) in [
            (json!({}), "inputs"),
            (json!({ "inputs": [] }), "0 inputs"),
            (input("x", &[1], "BYTES", json!([])), "`image`"),
            (input("image", &[1], "FP32", json!([])), "expected BYTES"),
            (input("image", &[0], "BYTES", json!([])), "1 to 4 images"),
            (input("image", &[5], "BYTES", json!([])), "1 to 4 images"),
            (input("image", &[2], "BYTES", json!(["YQ=="])), "1 pictures"),
            (
                input("pixels", &[1, 3, 2, 2], "FP32", json!([0])),
                "[images, 3, 1, 2]",
            ),
            (
                input("pixels", &[1, 3, 1, 2], "FP32", json!([0])),
                "1 values",
            ),
            (
                input(
                    "pixels",
                    &[1, 3, 1, 2],
                    "FP32",
                    json!([1e39, 0, 0, 0, 0, 0]),
                ),
                "finite",
            ),
        ] {
            let refusal = read(&request, b"").unwrap_err();
            assert!(
                refusal.message().contains(word),
                "{word}: {}",
                refusal.message()
            );
        }
        let size = json!({ "binary_data_size": 9 });
        let text = json!({ "inputs": [{ "name": "image", "shape": [1], "datatype": "BYTES", "parameters": size }] });
        assert!(read(&text, b"\x03\0\0\0abc").is_err());
        assert!(InferRequest::read(&Bytes::from("{}"), Some(3), SIZE, 4).is_err());
    }
}
