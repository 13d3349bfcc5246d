//! A model's memory, which is open, or will be as soon as its database answers.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use apt_inference::Model;

use crate::MemoryError;
use crate::error::AWAY;
use crate::opening::open;
use crate::store::Store;

/// A database that is away is asked again after so long.
const PAUSE: Duration = Duration::from_secs(2);

pub(crate) enum Held {
    Open(Box<dyn Store>),
    Later(Later),
}

/// A memory whose database was away when it was to be opened.
pub(crate) struct Later {
    address: String,
    store: OnceLock<Box<dyn Store>>,
    /// When it was last asked in vain.
    asked: Mutex<Instant>,
}

impl Held {
    /// The memory at this address, which was just asked in vain.
    pub fn later(address: &str) -> Self {
        Self::Later(Later {
            address: address.to_string(),
            store: OnceLock::new(),
            asked: Mutex::new(Instant::now()),
        })
    }

    /// The memory, if it is open.
    pub fn now(&self) -> Option<&dyn Store> {
        match self {
            Self::Open(store) => Some(&**store),
            Self::Later(later) => later.store.get().map(|store| &**store),
        }
    }

    /// The memory of this model; it is opened where it is not yet, and its database answers.
    pub fn store(&self, model: &Model) -> Result<&dyn Store, MemoryError> {
        match self {
            Self::Open(store) => Ok(&**store),
            Self::Later(later) => later.store(model),
        }
    }

    /// As [`store`](Self::store), to change it.
    pub fn store_mut(&mut self, model: &Model) -> Result<&mut dyn Store, MemoryError> {
        match self {
            Self::Open(store) => Ok(&mut **store),
            Self::Later(later) => {
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
        let opened = opened(&self.address, model);
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

/// The memory at an address, if it is this model's.
pub(crate) fn opened(address: &str, model: &Model) -> Result<Box<dyn Store>, MemoryError> {
    let store = open(address, &model.device())?;
    store.about().check(model)?;
    Ok(store)
}
