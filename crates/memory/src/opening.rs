//! A memory by its address.

use std::path::Path;

use burn::prelude::*;

use crate::file_store::FileStore;
#[cfg(feature = "postgres")]
use crate::postgres_store::PostgresStore;
use crate::store::Store;
use crate::{About, Entry, MemoryError};

/// With what the address of a database begins.
const DATABASE: [&str; 2] = ["postgres://", "postgresql://"];

/// Opens the memory at a path, or in a database: `postgres://user@host/database#name`.
///
/// # Errors
///
/// Where there is none, or it cannot be read.
pub fn open(address: &str, device: &Device) -> Result<Box<dyn Store>, MemoryError> {
    if is_database(address) {
        return open_database(address);
    }
    Ok(Box::new(FileStore::open(Path::new(address), device)?))
}

/// Creates a memory, in place of one that is there if `replace`.
///
/// # Errors
///
/// Where there is one, or it cannot be written.
pub fn create(
    address: &str,
    about: About,
    entries: Vec<Entry>,
    replace: bool,
    device: &Device,
) -> Result<Box<dyn Store>, MemoryError> {
    if is_database(address) {
        return create_database(address, about, &entries, replace);
    }
    let path = Path::new(address);
    if path.exists() && !replace {
        let reason = "is there already: add to it, or say that it may be replaced (--replace)";
        return Err(MemoryError::file(path, reason));
    }
    Ok(Box::new(FileStore::create(path, about, entries, device)?))
}

/// Is this the address of a database?
fn is_database(address: &str) -> bool {
    DATABASE.iter().any(|scheme| address.starts_with(scheme))
}

#[cfg(feature = "postgres")]
fn open_database(address: &str) -> Result<Box<dyn Store>, MemoryError> {
    Ok(Box::new(PostgresStore::open(address)?))
}

#[cfg(feature = "postgres")]
fn create_database(
    address: &str,
    about: About,
    entries: &[Entry],
    replace: bool,
) -> Result<Box<dyn Store>, MemoryError> {
    let store = PostgresStore::create(address, about, entries, replace)?;
    Ok(Box::new(store))
}

#[cfg(not(feature = "postgres"))]
fn open_database(address: &str) -> Result<Box<dyn Store>, MemoryError> {
    Err(MemoryError::Address {
        address: address.into(),
        reason: "this program was built without databases (the feature postgres)".into(),
    })
}

#[cfg(not(feature = "postgres"))]
fn create_database(
    address: &str,
    _: About,
    _: &[Entry],
    _: bool,
) -> Result<Box<dyn Store>, MemoryError> {
    open_database(address)
}
