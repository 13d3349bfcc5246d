//! A memory that is open, or will be as soon as its database answers.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use apt_inference::Model;

use crate::MemoryError;
use crate::error::{AWAY, PAUSE};
use crate::opening::open;
use crate::store::Store;

/// A memory that is open, or will be as soon as its database answers.
pub struct Held(Kind);

enum Kind {
    Open(Box<dyn Store>),
    Later(Later),
}

/// A memory whose database was away when it was to be opened.
struct Later {
    address: String,
    store: OnceLock<Box<dyn Store>>,
    /// When it was last asked in vain.
    asked: Mutex<Instant>,
}

impl From<Box<dyn Store>> for Held {
    fn from(store: Box<dyn Store>) -> Self {
        Self(Kind::Open(store))
    }
}

impl Held {
    /// The memory at this address, which was just asked in vain ([`MemoryError::is_away`]).
    pub fn later(address: &str) -> Self {
        Self(Kind::Later(Later {
            address: address.to_string(),
            store: OnceLock::new(),
            asked: Mutex::new(Instant::now()),
        }))
    }

    /// The memory, if it is open.
    pub(crate) fn now(&self) -> Option<&dyn Store> {
        match &self.0 {
            Kind::Open(store) => Some(&**store),
            Kind::Later(later) => later.store.get().map(|store| &**store),
        }
    }

    /// The memory of this model; it is opened where it is not yet, and its database answers.
    pub(crate) fn store(&self, model: &Model) -> Result<&dyn Store, MemoryError> {
        match &self.0 {
            Kind::Open(store) => Ok(&**store),
            Kind::Later(later) => later.store(model),
        }
    }

    /// As [`store`](Self::store), to change it.
    pub(crate) fn store_mut(&mut self, model: &Model) -> Result<&mut dyn Store, MemoryError> {
        match &mut self.0 {
            Kind::Open(store) => Ok(&mut **store),
            Kind::Later(later) => {
                later.store(model)?;
                match later.store.get_mut() {
                    Some(store) => Ok(&mut **store),
                    None => Err(away()),
                }
            }
        }
    }
}

impl Later {
    fn store(&self, model: &Model) -> Result<&dyn Store, MemoryError> {
        // One asks, and the others wait for what it finds.
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = self.store.get() {
            return Ok(&**store);
        }
        if asked.elapsed() < PAUSE {
            return Err(away());
        }
        let opened = open(&self.address, &model.device()).and_then(|store| {
            store.about().check(model)?;
            Ok(store)
        });
        *asked = Instant::now();
        let store = opened?;
        Ok(&**self.store.get_or_init(|| store))
    }
}

fn away() -> MemoryError {
    MemoryError::Away {
        address: "the memory".into(),
        reason: AWAY.into(),
    }
}
