//! A memory by its address.

use std::path::Path;

use burn::prelude::*;

use crate::error::IS_THERE;
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

/// Checks, before much is computed, that [`create`] will find a place for a memory.
///
/// # Errors
///
/// Where there is one already that may not be replaced, the file's folder is missing, or the database is away.
pub fn check_place(address: &str, replace: bool) -> Result<(), MemoryError> {
    if is_database(address) {
        return check_database(address, replace);
    }
    let path = Path::new(address);
    if path.exists() && !replace {
        return Err(MemoryError::file(path, IS_THERE));
    }
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    match folder.filter(|folder| !folder.is_dir()) {
        Some(folder) => Err(MemoryError::file(folder, "there is no such folder")),
        None => Ok(()),
    }
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
    check_place(address, replace)?;
    let path = Path::new(address);
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
fn check_database(address: &str, replace: bool) -> Result<(), MemoryError> {
    PostgresStore::check_place(address, replace)
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
fn check_database(address: &str, _: bool) -> Result<(), MemoryError> {
    open_database(address).map(drop)
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
