//! One image on its way through the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use apt_inference::{NotFinite, Reduced};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::budget::Budget;
use crate::picture::PictureError;
use crate::queue::Queued;
use crate::{Priority, picture::Seen};

/// What is asked about an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// The logits of its classes.
    #[default]
    Classify,
    /// The CLS token after the last norm.
    Embed,
    /// The logits, and the CLS token to look up.
    LookUp,
}

impl Task {
    /// What it computes.
    pub fn output(self) -> &'static str {
        match self {
            Self::Classify | Self::LookUp => "logits",
            Self::Embed => "features",
        }
    }

    /// Does it ask for classes?
    pub fn names_classes(self) -> bool {
        self != Self::Embed
    }
}

/// An image as it arrives.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A picture's file.
    Picture(Bytes),
    /// Preprocessed values, `[3, height, width]`.
    Values(Vec<f32>),
}

/// How an image is to be treated.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What is asked.
    pub task: Task,
    /// The budget that the request names; none where the load decides.
    pub budget: Option<Arc<Budget>>,
    /// Who is served first.
    pub priority: Priority,
    /// Nobody wants the answer after this.
    pub deadline: Instant,
}

/// What became of an image.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Logits or features.
    pub values: Vec<f32>,
    /// The features to look up, where that was asked.
    pub features: Vec<f32>,
    /// What was removed, and what it cost.
    pub reduced: Reduced,
    /// The share of the dense FLOPs that the image was given; none where the policy removes what it wants.
    pub share: Option<f64>,
    /// What the model saw of the picture; none where values arrived.
    pub seen: Option<Seen>,
    /// How long it waited, decoded or not.
    pub queued: Duration,
    /// How long decoding and resizing took.
    pub prepared: Duration,
    /// How long its batch was computed.
    pub computed: Duration,
    /// Images of that batch.
    pub batch: usize,
}

/// Why an image has no reply.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// It is no sound picture.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The deadline passed before it was computed.
    #[error("the deadline passed before the image was computed")]
    Late,
    /// What the model computed for it is no number.
    #[error("the image cannot be answered: {0}")]
    NotFinite(#[from] NotFinite),
    /// Its batch failed.
    #[error("computing the batch failed; the server's log says why")]
    Failed,
}

/// What an image needs to be served and answered.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub wish: Wish,
    pub enqueued: Instant,
    pub reply: oneshot::Sender<Result<Reply, JobError>>,
}

impl Ticket {
    /// Sends the reply, if the client still waits for it.
    pub fn answer(self, reply: Result<Reply, JobError>) {
        // The client may be gone.
        let _ = self.reply.send(reply);
    }
}

impl Queued for Ticket {
    fn priority(&self) -> Priority {
        self.wish.priority
    }

    fn fixed_share(&self) -> Option<f64> {
        self.wish.budget.as_ref().map(|budget| budget.cost())
    }

    fn is_dead(&self) -> bool {
        self.reply.is_closed() || Instant::now() > self.wish.deadline
    }
}

/// An image that waits to be decoded.
#[derive(Debug)]
pub(crate) struct Job {
    pub ticket: Ticket,
    pub input: Input,
}

/// An image that waits to be computed.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub ticket: Ticket,
    /// `[3, height, width]`
    pub values: Vec<f32>,
    pub seen: Option<Seen>,
    pub took: Duration,
}

macro_rules! queued_by_its_ticket {
    ($type:ty) => {
        impl Queued for $type {
            fn priority(&self) -> Priority {
                self.ticket.priority()
            }

            fn fixed_share(&self) -> Option<f64> {
                self.ticket.fixed_share()
            }

            fn is_dead(&self) -> bool {
                self.ticket.is_dead()
            }
        }
    };
}

queued_by_its_ticket!(Job);
queued_by_its_ticket!(Prepared);
