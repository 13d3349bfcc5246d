#![cfg_attr(test, allow(clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

mod about;
#[cfg(feature = "postgres")]
mod database;
mod entry;
mod error;
mod file_store;
mod held;
mod judge;
mod learn;
mod opening;
#[cfg(feature = "postgres")]
mod postgres_store;
mod recall;
mod remember;
mod search;
mod store;
mod vote;
mod whitening;

pub use about::About;
pub use entry::{Entry, Label, Neighbor, Which, picture_id};
pub use error::MemoryError;
pub use file_store::FileStore;
pub use held::Held;
pub use judge::Judge;
pub use opening::{check_place, create, open};
#[cfg(feature = "postgres")]
pub use postgres_store::PostgresStore;
pub use recall::{Lookup, Recall, Recalled};
pub use remember::{Picture, Remembered, pictures, remember, teach};
pub use search::Index;
pub use store::Store;
pub use vote::{ClassCounts, Vote};
pub use whitening::Whitening;
