//! What a server takes on, at most.

use std::time::Duration;

/// What a server takes on, at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Pixels of a picture.
    pub pixels: u64,
    /// Images of a request.
    pub images: usize,
    /// Inference requests that are being answered at once.
    pub requests: usize,
    /// Open connections.
    pub connections: usize,
    /// Until a request's head has arrived, and how long an idle connection is kept.
    pub head: Duration,
    /// Until a request's body has arrived.
    pub body_time: Duration,
    /// Until a request is answered, where it names no time of its own; the longest that it may name.
    pub deadline: Duration,
    /// How long a connection is kept at all.
    pub age: Duration,
    /// How long the end waits for what was taken in.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 8 << 20,
            pixels: 25_000_000,
            images: 32,
            requests: 256,
            connections: 1024,
            head: Duration::from_secs(10),
            body_time: Duration::from_secs(20),
            deadline: Duration::from_secs(30),
            age: Duration::from_secs(600),
            drain: Duration::from_secs(30),
        }
    }
}
