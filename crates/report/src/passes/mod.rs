//! Runs a model on some of its test images, dense and pruned, for what the folder's files do not hold.

mod images;
mod measured;
mod pass;
mod picture;
mod seen;

pub use measured::{Measured, Way};
pub use pass::{PassSettings, Passes, pass, short};
pub use seen::Seen;
