//! The server over HTTP, in this process and on a free port.
#![allow(clippy::unwrap_used, missing_docs)]

mod answers;
mod common;
mod load;
mod memory;
mod refusals;
mod tls;
