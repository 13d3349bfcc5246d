#![cfg_attr(test, allow(clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

mod answers;
mod budget;
mod changes;
mod compute;
mod elastic;
mod engine;
mod error;
mod fidelity;
mod job;
mod json;
mod key;
mod limits;
mod line;
mod listen;
mod memory;
mod metrics;
mod openapi;
mod options;
mod page;
mod picture;
mod plain;
mod prepare;
mod priority;
mod queue;
mod refusal;
mod router;
mod service;
mod speed;
mod state;
#[cfg(test)]
mod testing;
mod tls;
mod upload;
mod v2;

pub use budget::{Budget, Usual};
pub use engine::{Engine, EngineSettings, Load, Refused};
pub use error::ServerError;
pub use job::{Input, JobError, Reply, Task, Wish};
pub use key::{API_KEY, ApiKey};
pub use limits::Limits;
pub use listen::Server;
pub use metrics::{Metrics, ModelMetrics};
pub use picture::{PictureError, Seen};
pub use priority::Priority;
pub use refusal::Refusal;
pub use router::router;
pub use service::{Service, Settings};
pub use tls::TlsFiles;
