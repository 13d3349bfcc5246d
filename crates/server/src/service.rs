//! What every request is answered from.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Instant;

use apt_inference::Model;
use apt_memory::{Held, Recall};
use axum::http::StatusCode;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::ServerError;
use crate::engine::{Engine, EngineSettings};
use crate::job::{Input, Reply, Task, Wish};
use crate::key::ApiKey;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::picture::check;
use crate::refusal::Refusal;

/// How a server answers.
#[derive(Clone, Default)]
pub struct Settings {
    /// What it takes on, at most.
    pub limits: Limits,
    /// How its models work.
    pub engine: EngineSettings,
    /// What requests have to show; none lets everybody in.
    pub key: Option<ApiKey>,
    /// Other origins whose pages may call it, such as `https://example.org`.
    pub origins: Vec<String>,
}

/// The models of a server, and what it counts.
pub struct Service {
    engines: BTreeMap<String, Engine>,
    memories: BTreeMap<String, Arc<RwLock<Recall>>>,
    settings: Settings,
    metrics: Metrics,
    slots: Semaphore,
    is_draining: AtomicBool,
}

impl Service {
    /// Starts the engines of models, each with its name.
    ///
    /// # Errors
    ///
    /// Where there is none, two have one name, one does not meet the budget, or an origin is none.
    pub fn new(models: Vec<(String, Model)>, settings: Settings) -> Result<Arc<Self>, ServerError> {
        Self::with_memories(models, Vec::new(), settings)
    }

    /// The same, some of the models with a memory that they ask when they classify.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and where a memory was built with another model, or names none that is served.
    pub fn with_memories(
        models: Vec<(String, Model)>,
        memories: Vec<(String, Held)>,
        settings: Settings,
    ) -> Result<Arc<Self>, ServerError> {
        if models.is_empty() {
            return Err(ServerError::Models("there is none to serve".into()));
        }
        if let Some(wrong) = settings.origins.iter().find(|origin| !is_origin(origin)) {
            return Err(ServerError::Origin(wrong.clone()));
        }
        let metrics = Metrics::new()?;
        let memories = join(&models, memories)?;
        let mut engines = BTreeMap::new();
        for (name, model) in models {
            if !is_name(&name) {
                return Err(ServerError::Models(format!(
                    "the name `{name}`: expected letters, digits, `-`, `_` and `.`"
                )));
            }
            if engines.contains_key(&name) {
                return Err(ServerError::Models(format!("`{name}` is there twice")));
            }
            let of_model = metrics.of_model(&name);
            let engine = Engine::start(&name, model, settings.engine.clone(), of_model)?;
            engines.insert(name, engine);
        }
        Ok(Arc::new(Self {
            engines,
            memories,
            slots: Semaphore::new(settings.limits.requests),
            settings,
            metrics,
            is_draining: AtomicBool::new(false),
        }))
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How it answers.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The models, by name.
    pub fn engines(&self) -> &BTreeMap<String, Engine> {
        &self.engines
    }

    /// A model's memory, if it has one.
    pub(crate) fn memory(&self, model: &str) -> Option<Arc<RwLock<Recall>>> {
        self.memories.get(model).cloned()
    }

    /// Does it still take in requests?
    pub fn is_ready(&self) -> bool {
        !self.is_draining.load(Ordering::Relaxed)
    }

    /// From now on it is not ready, so that a load balancer sends no more requests.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Ends the engines, when all that they took in is answered.
    pub fn end(&self) {
        self.engines.values().for_each(Engine::close);
        self.engines.values().for_each(Engine::join);
    }

    /// The model of a name.
    ///
    /// # Errors
    ///
    /// 404 where there is none; it names those that there are.
    pub(crate) fn engine(&self, name: &str) -> Result<&Engine, Refusal> {
        self.engines.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.engines.keys().map(String::as_str).collect();
            let message = format!("there is no model `{name}`; there are {}", known.join(", "));
            Refusal::new(StatusCode::NOT_FOUND, message)
        })
    }

    /// A place among the requests that are answered at once.
    ///
    /// # Errors
    ///
    /// 429 where all are taken.
    pub(crate) fn admit(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.slots.try_acquire().map_err(|_| {
            let most = self.settings.limits.requests;
            let message = format!("{most} requests are being answered, which is the limit");
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, message).retry_after(1.0)
        })
    }

    /// Has the images of a request computed.
    ///
    /// # Errors
    ///
    /// Where a picture is refused, the queue is full, or the deadline passes. None of the images is computed then, as
    /// far as that can be prevented.
    pub(crate) async fn ask(
        &self,
        engine: &Engine,
        inputs: Vec<Input>,
        wish: &Wish,
    ) -> Result<Vec<Reply>, Refusal> {
        if wish.task == Task::Classify && engine.model().class_names().is_empty() {
            let message = "the model has no classes: ask for its embedding";
            return Err(Refusal::unprocessable(message));
        }
        for input in &inputs {
            if let Input::Picture(bytes) = input {
                check(bytes, self.settings.limits.pixels)?;
            }
        }
        let receivers = engine.submit(inputs, wish)?;
        let mut replies = Vec::with_capacity(receivers.len());
        let left = wish.deadline.saturating_duration_since(Instant::now());
        let all = async {
            for receiver in receivers {
                let lost = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the engine ended");
                replies.push(receiver.await.map_err(|_| lost())??);
            }
            Ok::<(), Refusal>(())
        };
        let late = || {
            let message = "the deadline passed before the answer was there";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(1.0)
        };
        tokio::time::timeout(left, all)
            .await
            .map_err(|_| late())??;
        Ok(replies)
    }
}

/// The memories with their models, by their names.
fn join(
    models: &[(String, Model)],
    memories: Vec<(String, Held)>,
) -> Result<BTreeMap<String, Arc<RwLock<Recall>>>, ServerError> {
    let mut joined = BTreeMap::new();
    for (name, held) in memories {
        let model = models.iter().find(|(model, _)| *model == name);
        let Some((_, model)) = model else {
            let reason = format!("the memory of `{name}`: there is no model of that name");
            return Err(ServerError::Models(reason));
        };
        let recall =
            Recall::holding(model.clone(), held).map_err(|source| ServerError::Memory {
                name: name.clone(),
                source: Box::new(source),
            })?;
        if joined
            .insert(name.clone(), Arc::new(RwLock::new(recall)))
            .is_some()
        {
            let reason = format!("`{name}` has two memories");
            return Err(ServerError::Models(reason));
        }
    }
    Ok(joined)
}

/// Is it an origin as browsers send it: scheme, host, perhaps a port?
fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, host)| {
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"/*".contains(&byte);
        !scheme.is_empty() && !host.is_empty() && scheme.bytes().chain(host.bytes()).all(fits)
    })
}

/// Can it stand in an address as it is?
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.len() <= 128 && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tiny_model;

    #[test]
    fn an_origin_that_no_browser_sends_is_refused_at_the_start() {
        let start = |origin: &str| {
            let settings = Settings {
                origins: vec![origin.into()],
                ..Settings::default()
            };
            Service::new(vec![("tiny".into(), tiny_model())], settings).map(drop)
        };
        for sound in ["https://example.org", "http://127.0.0.1:3000"] {
            start(sound).unwrap();
        }
        for wrong in [
            "*",
            "example.org",
            "https://example.org/",
            "https://",
            "https://*.org",
        ] {
            let error = start(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
