//! A model on some of its test images, dense and pruned: what the files of a folder cannot say.

mod images;
mod measured;
mod pass;
mod picture;
mod seen;

pub use measured::{Measured, Way};
pub use pass::{PassSettings, Passes, pass};
pub use seen::Seen;
