//! Values as the command line writes them.

use std::time::Duration;

use anyhow::{Context, bail};
use apt_pruning_agent::KeepRate;
use apt_vit_model::Precision;

/// Images of a forward pass, at most: as in a config.
const BATCH: usize = 65_536;
/// Of everything else that is counted, at most.
const MANY: usize = 1_000_000_000;

/// A layer keep rate for each of `layers` agents: as many as were given, or one for all.
pub fn keep_rates(given: &[f64], layers: usize) -> anyhow::Result<Vec<KeepRate>> {
    let given = match given {
        &[rate] => vec![rate; layers],
        given => given.to_vec(),
    };
    if given.len() != layers {
        bail!(
            "--keep: {} rates; expected 1 for all agents, or {layers}",
            given.len()
        );
    }
    let rates = given.into_iter().map(KeepRate::new);
    rates.collect::<Result<_, _>>().context("--keep")
}

pub fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=1024).contains(&number) => Ok(number),
        _ => Err("expected a whole number from 1 to 1024".into()),
    }
}

/// What `--dtype` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// The fastest that keeps a model's answers on the device.
    Auto,
    /// This one.
    Given(Precision),
}

pub fn dtype(text: &str) -> Result<Dtype, String> {
    if text == "auto" {
        return Ok(Dtype::Auto);
    }
    let mut all = Precision::ALL.into_iter();
    all.find(|precision| precision.name() == text)
        .map(Dtype::Given)
        .ok_or_else(|| "expected f32, bf16, f16, int8 or auto".into())
}

/// What to log, as `tracing` writes it. A word alone is a level: `tracing` would take one that it does not know for a module.
pub fn log_filter(text: &str) -> Result<String, String> {
    let expected = "expected error, warn, info, debug, trace or off, or module=level";
    let is_level = |part: &str| {
        part.trim()
            .parse::<tracing::level_filters::LevelFilter>()
            .is_ok()
    };
    let mut parts = text.split(',');
    if let Some(part) = parts.find(|part| !part.contains(['=', '[']) && !is_level(part)) {
        return Err(format!("there is no level {part:?}; {expected}"));
    }
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_string()),
        Err(error) => Err(format!("{error}; {expected}")),
    }
}

/// Images of a forward pass.
pub fn batch_size(text: &str) -> Result<usize, String> {
    within(text, 1, BATCH)
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    within(text, 1, MANY)
}

/// A number that may be 0.
pub fn count(text: &str) -> Result<usize, String> {
    within(text, 0, MANY)
}

fn within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from {least} to {most}")),
    }
}

pub fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number <= 1.0 => Ok(number),
        _ => Err("expected a share above 0 and at most 1, as in 0.5".into()),
    }
}

pub fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("expected a probability from 0 to 1".into()),
    }
}

/// `500ms`, `90s`, `30m`, `2h`, or seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a time as in 500ms, 90s, 30m or 2h".into()),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number * seconds < 1e9 => {
            Ok(Duration::from_secs_f64(number * seconds))
        }
        _ => Err("expected a time as in 500ms, 90s, 30m or 2h".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_a_range() {
        assert_eq!(batch_size("64"), Ok(64));
        for text in ["0", "-1", "65537", "9223372036854775808", "1.5", ""] {
            let message = batch_size(text).unwrap_err();
            assert_eq!(message, "expected a whole number from 1 to 65536", "{text}");
        }
        assert!(at_least_one("0").is_err() && count("0") == Ok(0));
        assert!(count("99999999999999").is_err());
    }

    #[test]
    fn a_level_that_does_not_exist_is_no_filter() {
        for text in [
            "warn",
            "OFF",
            "apt_server=debug,warn",
            "info,apt_data=trace",
        ] {
            assert!(log_filter(text).is_ok(), "{text}");
        }
        for text in ["xyz", "warn,loud", "apt_server=loud"] {
            assert!(log_filter(text).is_err(), "{text}");
        }
    }

    #[test]
    fn precisions_have_names() {
        assert_eq!(dtype("auto"), Ok(Dtype::Auto));
        for precision in Precision::ALL {
            assert_eq!(dtype(precision.name()), Ok(Dtype::Given(precision)));
        }
        assert_eq!(
            dtype("int4").unwrap_err(),
            "expected f32, bf16, f16, int8 or auto"
        );
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert!(duration("soon").is_err() && duration("-3m").is_err());
    }
}
