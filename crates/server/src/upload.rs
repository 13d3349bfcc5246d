//! A request's body to the pictures in it.

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use multer::Multipart;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::limits::Limits;
use crate::refusal::Refusal;

/// Pictures in JSON, base64.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pictures {
    /// One picture, base64, maybe behind `data:image/png;base64,`.
    #[serde(default)]
    image: Option<String>,
    /// Several.
    #[serde(default)]
    images: Vec<String>,
}

/// Reads a body.
///
/// # Errors
///
/// Where it is larger than the limit, arrives too slowly, or is cut.
pub async fn read(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Bytes, Refusal> {
    let encoding = headers.get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        let message = "Content-Encoding: expected identity; send the body as it is";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let length = headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limits.body) {
        return Err(Refusal::too_large(limits.body));
    }
    let whole = Limited::new(body, limits.body).collect();
    let seconds = limits.body_time.as_secs_f64();
    match tokio::time::timeout(limits.body_time, whole).await {
        Err(_) => {
            let message = format!("the body did not arrive within {seconds} s");
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message))
        }
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::too_large(limits.body)),
        Ok(Err(error)) => Err(Refusal::malformed(format!(
            "the body cannot be read: {error}"
        ))),
    }
}

/// The pictures in a body: one as it is, several as multipart, or base64 in JSON.
///
/// # Errors
///
/// Where the body is in no such form, or holds none or too many.
pub async fn pictures(
    headers: &HeaderMap,
    body: Bytes,
    limits: &Limits,
) -> Result<Vec<Bytes>, Refusal> {
    let kind = match headers.get(CONTENT_TYPE).map(|kind| kind.to_str()) {
        None => String::new(),
        Some(Ok(kind)) => kind.to_string(),
        Some(Err(_)) => return Err(Refusal::malformed("Content-Type: expected ASCII")),
    };
    let name = kind.split(';').next().unwrap_or_default().trim();
    let pictures = match name.to_ascii_lowercase().as_str() {
        // What curl says of a file, where it is told nothing else.
        "application/x-www-form-urlencoded" => vec![body],
        "" | "application/octet-stream" | "image/jpeg" | "image/png" | "image/webp" => vec![body],
        "application/json" => in_json(&body)?,
        "multipart/form-data" => in_parts(&kind, body, limits.images).await?,
        _ => {
            let message = format!(
                "Content-Type: {name}: expected image/jpeg, image/png, image/webp, multipart/form-data or \
                 application/json"
            );
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
    };
    match pictures.len() {
        0 => Err(Refusal::unprocessable("the request holds no picture")),
        count if count > limits.images => Err(too_many(limits.images)),
        _ => Ok(pictures),
    }
}

/// The bytes of a base64 text, maybe a data URL.
pub(crate) fn from_base64(text: &str) -> Result<Bytes, Refusal> {
    let data = match text.split_once(";base64,") {
        Some((start, data)) if start.starts_with("data:") => data,
        _ => text,
    };
    let bytes = STANDARD.decode(data.trim());
    bytes
        .map(Bytes::from)
        .map_err(|error| Refusal::unprocessable(format!("a picture is no base64: {error}")))
}

fn in_json(body: &[u8]) -> Result<Vec<Bytes>, Refusal> {
    let found: Pictures = serde_json::from_slice(body).map_err(|error| {
        let expected = r#"{"image": "BASE64"} or {"images": ["BASE64", ...]}"#;
        Refusal::malformed(format!("the body is not {expected}: {error}"))
    })?;
    let texts = found.image.iter().chain(&found.images);
    texts.map(|text| from_base64(text)).collect()
}

async fn in_parts(kind: &str, body: Bytes, most: usize) -> Result<Vec<Bytes>, Refusal> {
    let damaged = |error: multer::Error| Refusal::malformed(format!("multipart: {error}"));
    let boundary = multer::parse_boundary(kind).map_err(damaged)?;
    let mut parts = Multipart::new(Full::new(body).into_data_stream(), boundary);
    let mut pictures = Vec::new();
    while let Some(part) = parts.next_field().await.map_err(damaged)? {
        if pictures.len() == most {
            return Err(too_many(most));
        }
        pictures.push(part.bytes().await.map_err(damaged)?);
    }
    Ok(pictures)
}

fn too_many(most: usize) -> Refusal {
    let message = format!("more than {most} pictures: send them in several requests");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, body: &str) -> Result<Vec<Bytes>, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        let limits = Limits {
            images: 2,
            ..Limits::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(pictures(&headers, Bytes::from(body.to_string()), &limits))
    }

    #[test]
    fn pictures_come_in_three_forms() {
        for kind in ["image/png; x=y", "application/x-www-form-urlencoded"] {
            assert_eq!(of(kind, "abc").unwrap(), ["abc"]);
        }
        assert_eq!(
            of("application/json", r#"{"image": "YWJj"}"#).unwrap(),
            ["abc"]
        );
        let url = r#"{"images": ["data:image/png;base64,YWJj", "ZA=="]}"#;
        assert_eq!(of("application/json", url).unwrap(), ["abc", "d"]);
        let parts = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nabc\r\n--B\r\n\
                     Content-Disposition: form-data; name=\"b\"\r\n\r\nd\r\n--B--\r\n";
        assert_eq!(
            of("multipart/form-data; boundary=B", parts).unwrap(),
            ["abc", "d"]
        );
    }

    #[test]
    fn what_is_in_no_such_form_is_refused_with_its_status() {
        for (kind, body, status) in [
            ("text/plain", "abc", 415),
            ("application/json", "{", 400),
            ("application/json", r#"{"pictures": []}"#, 400),
            ("application/json", r#"{"image": "*"}"#, 422),
            ("application/json", "{}", 422),
            (
                "application/json",
                r#"{"images": ["YQ==", "YQ==", "YQ=="]}"#,
                413,
            ),
            ("multipart/form-data", "abc", 400),
            ("multipart/form-data; boundary=B", "--B\r\n", 400),
        ] {
            assert_eq!(
                of(kind, body).unwrap_err().status(),
                status,
                "{kind} {body}"
            );
        }
    }
}
