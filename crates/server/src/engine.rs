//! A model on threads of its own: some decode pictures, one computes batches.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use apt_inference::{InferenceError, Model};
use apt_vit_model::fused::computes_here;
use burn::tensor::{Tensor, TensorData};
use tokio::sync::oneshot;

use crate::budget::{Budget, Budgets, Usual};
use crate::job::{Input, Job, JobError, Reply, Ticket, Wish};
use crate::line::Line;
use crate::metrics::ModelMetrics;
use crate::speed::Speed;
use crate::{Priority, ServerError, compute, prepare};

/// Images of the pass that measures how fast a model is, at the start.
const WARM_UP: usize = 2;
/// Threads that decode, for each model.
const PREPARERS: usize = 2;

/// How an engine works.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    /// What requests get that name no share.
    pub usual: Usual,
    /// How long an image may wait before compute falls.
    pub target_latency: Duration,
    /// FLOPs of a batch, as so many dense images, at most. A batch is smaller where it would take more than a quarter of
    /// the target latency.
    pub batch: f64,
    /// An image that would wait longer is refused.
    pub most_wait: Duration,
    /// One in so many pruned answers is computed again, dense.
    pub sample_every: u64,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            usual: Usual::AsTrained,
            target_latency: Duration::from_secs(1),
            batch: 32.0,
            most_wait: Duration::from_secs(10),
            sample_every: 1000,
        }
    }
}

/// What the threads of one engine share.
pub(crate) struct Shared {
    pub model: Model,
    pub budgets: Budgets,
    pub settings: EngineSettings,
    pub metrics: ModelMetrics,
    line: Mutex<Line>,
    /// Something waits to be decoded, or may be now.
    pub to_prepare: Condvar,
    /// Something is ready to be computed, or the end has come.
    pub to_compute: Condvar,
}

impl Shared {
    /// The line, also after a thread panicked: nothing in it is left half done.
    pub fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// May images of one batch have different budgets? A device that decides by itself wants images of equal counts.
    pub fn mixes_budgets(&self) -> bool {
        computes_here(&self.model.device())
    }

    /// Shows what the line looks like now.
    pub fn show(&self, line: &Line) {
        self.metrics.waiting.set(line.len() as f64);
        let wait = line.wait(Priority::Normal, Instant::now());
        self.metrics.wait.set(wait);
        for (gauge, priority) in self.metrics.share.iter().zip(Priority::ALL) {
            gauge.set(line.share(priority));
        }
    }
}

/// Why images are not taken in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// They would wait too long.
    #[error("the queue is full: an image would wait {wait:.1} s, the limit is {most:.1} s")]
    Full {
        /// Seconds.
        wait: f64,
        /// Seconds.
        most: f64,
    },
    /// The server is ending.
    #[error("the server is shutting down")]
    Closing,
}

/// How an engine stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// The share of the dense FLOPs that an image is given now, by priority.
    pub shares: [f64; Priority::ALL.len()],
    /// Images that wait.
    pub waiting: usize,
    /// Images that are being computed.
    pub computing: usize,
    /// Seconds that a new image of normal priority would wait.
    pub wait: f64,
    /// Images answered a second, over the last few seconds.
    pub images_per_second: f64,
    /// KL(dense || pruned) in nats over the last samples.
    pub divergence: Option<f64>,
    /// The share of equal top-1 answers over the last samples.
    pub agreement: Option<f64>,
    /// Samples so far.
    pub samples: u64,
}

/// A model that answers.
pub struct Engine {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the threads of a model, after a first pass that measures it.
    ///
    /// # Errors
    ///
    /// Where the policy does not meet the usual budget, or no thread can be started.
    pub fn start(
        name: &str,
        model: Model,
        settings: EngineSettings,
        metrics: ModelMetrics,
    ) -> Result<Self, ServerError> {
        let of_model = |error| ServerError::Model {
            name: name.to_string(),
            source: Box::new(error),
        };
        let (model, budgets) = Budgets::new(model, settings.usual).map_err(of_model)?;
        let shares: Vec<f64> = budgets.levels().iter().map(|level| level.cost()).collect();
        let mut known = shares.clone();
        // Samples are computed dense, and requests may ask for it.
        known.push(1.0);
        let speed = Speed::new(known, measure(&model));
        let shared = Arc::new(Shared {
            line: Mutex::new(Line::new(
                shares,
                speed,
                settings.target_latency,
                settings.batch,
            )),
            model,
            budgets,
            settings,
            metrics,
            to_prepare: Condvar::new(),
            to_compute: Condvar::new(),
        });
        shared.show(&shared.line());
        let mut threads = Vec::new();
        let mut start = |role: &str, run: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("{role} {name}"));
            let handle = thread.spawn(move || run(&shared));
            handle.map(|handle| threads.push(handle))
        };
        for _ in 0..PREPARERS {
            start("prepare", prepare::run).map_err(ServerError::Thread)?;
        }
        start("compute", compute::run).map_err(ServerError::Thread)?;
        let threads = Mutex::new(threads);
        Ok(Self { shared, threads })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.shared.model
    }

    /// What the load chooses from.
    pub fn levels(&self) -> &[Arc<Budget>] {
        self.shared.budgets.levels()
    }

    /// The budget for the share that a request names.
    ///
    /// # Errors
    ///
    /// Where the policy meets no such share.
    pub fn budget(&self, share: f64) -> Result<Arc<Budget>, InferenceError> {
        self.shared.budgets.named(&self.shared.model, share)
    }

    /// Takes in the images of one request, all or none. Dropping a receiver cancels its image.
    ///
    /// # Errors
    ///
    /// Where they would wait too long, or the server is ending.
    pub fn submit(
        &self,
        inputs: Vec<Input>,
        wish: &Wish,
    ) -> Result<Vec<oneshot::Receiver<Result<Reply, JobError>>>, Refused> {
        let now = Instant::now();
        let mut line = self.shared.line();
        if line.is_closing {
            return Err(Refused::Closing);
        }
        let most = self.shared.settings.most_wait.as_secs_f64();
        let wait = line.least_wait(inputs.len(), now);
        if wait > most {
            self.shared.metrics.refused.increment(inputs.len() as u64);
            return Err(Refused::Full { wait, most });
        }
        self.shared.metrics.accepted.increment(inputs.len() as u64);
        line.arrivals[wish.priority.index()].add(now, inputs.len());
        let mut receivers = Vec::with_capacity(inputs.len());
        for input in inputs {
            let (reply, receiver) = oneshot::channel();
            let ticket = Ticket {
                wish: wish.clone(),
                enqueued: now,
                reply,
            };
            line.waiting.push(Job { ticket, input });
            receivers.push(receiver);
        }
        line.follow_load(now);
        self.shared.show(&line);
        drop(line);
        self.shared.to_prepare.notify_all();
        Ok(receivers)
    }

    /// How it stands.
    pub fn load(&self) -> Load {
        let now = Instant::now();
        let line = self.shared.line();
        Load {
            shares: Priority::ALL.map(|priority| line.share(priority)),
            waiting: line.len(),
            computing: line.computing,
            wait: line.wait(Priority::Normal, now),
            images_per_second: line.answers.get(now),
            divergence: line.fidelity.divergence(),
            agreement: line.fidelity.agreement(),
            samples: line.fidelity.samples(),
        }
    }

    /// Takes in nothing more. What was taken in is still answered.
    pub fn close(&self) {
        self.shared.line().is_closing = true;
        self.shared.to_prepare.notify_all();
        self.shared.to_compute.notify_all();
    }

    /// Waits until all is answered; [`close`](Self::close) comes first.
    pub fn join(&self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine ended with a panic");
            }
        }
    }
}

/// Waits for its threads: LibTorch crashes where one of them still computes while the program ends.
impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
        self.join();
    }
}

/// Seconds of a dense image.
fn measure(model: &Model) -> f64 {
    let size = model.description().model.image_size;
    let shape = [WARM_UP, 3, size.height, size.width];
    let mut seconds = f64::INFINITY;
    for _ in 0..2 {
        let started = Instant::now();
        let values = vec![0.0; shape.iter().product()];
        let images = Tensor::from_data(TensorData::new(values, shape), &model.device());
        let output = model.forward_with(images, &Budget::dense().selection);
        output.logits.into_data();
        seconds = started.elapsed().as_secs_f64().min(seconds);
    }
    seconds / WARM_UP as f64
}
