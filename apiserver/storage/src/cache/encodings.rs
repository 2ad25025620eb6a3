//! Encodings of objects and events, made once and shared, and the ledger that bounds what they hold.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::object::Object;

/// Encodings of one thing, by the caller's slot number.
#[derive(Default)]
pub(crate) struct Encodings(Mutex<Option<Slots>>);

/// Boxed, because most objects have none.
type Slots = Box<Vec<(u8, Bytes)>>;

impl Encodings {
    fn find(&self, slot: u8) -> Option<Bytes> {
        let kept = self.0.lock();
        kept.iter()
            .flat_map(|v| v.iter())
            .find(|(s, _)| *s == slot)
            .map(|(_, b)| b.clone())
    }

    /// The encoding in `slot`, made by `make` if it is not there; `kept` hears the size of a new one. Two callers at once may
    /// both make it; one result is kept.
    pub fn get_or_make<E>(
        &self,
        slot: u8,
        make: impl FnOnce() -> Result<Bytes, E>,
        kept: impl FnOnce(usize),
    ) -> Result<Bytes, E> {
        if let Some(bytes) = self.find(slot) {
            return Ok(bytes);
        }
        let made = make()?;
        let mut slots = self.0.lock();
        if let Some((_, bytes)) = slots.iter().flat_map(|v| v.iter()).find(|(s, _)| *s == slot) {
            return Ok(bytes.clone());
        }
        slots.get_or_insert_default().push((slot, made.clone()));
        drop(slots);
        kept(made.len());
        Ok(made)
    }

    /// Bytes that the encodings hold.
    pub fn size(&self) -> usize {
        self.0.lock().iter().flat_map(|v| v.iter()).map(|(_, b)| b.len()).sum()
    }

    fn clear(&self) {
        *self.0.lock() = None;
    }
}

/// Counts bytes that are released somewhere else.
pub(crate) type Ledger = Arc<AtomicUsize>;

/// Bounds the encodings of current objects: the oldest ones are dropped first.
pub(crate) struct EncodingBudget {
    limit: usize,
    kept: Mutex<Kept>,
}

/// Who has encodings, oldest first, and how many bytes they are together.
#[derive(Default)]
struct Kept {
    queue: VecDeque<(Weak<Object>, usize)>,
    total: usize,
}

impl EncodingBudget {
    pub fn new(limit: usize) -> Self {
        EncodingBudget {
            limit,
            kept: Mutex::default(),
        }
    }

    pub fn encoding<E>(
        &self,
        object: &Arc<Object>,
        slot: u8,
        make: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        object.encodings().get_or_make(slot, make, |size| {
            let mut kept = self.kept.lock();
            kept.queue.push_back((Arc::downgrade(object), size));
            kept.total += size;
            while kept.total > self.limit
                && let Some((oldest, size)) = kept.queue.pop_front()
            {
                kept.total -= size;
                if let Some(object) = oldest.upgrade() {
                    object.encodings().clear();
                }
            }
        })
    }
}

/// Takes bytes back from a ledger.
pub(crate) fn release(ledger: &Ledger, bytes: usize) {
    ledger.fetch_sub(bytes, Ordering::Relaxed);
}

/// Enters bytes into a ledger.
pub(crate) fn hold(ledger: &Ledger, bytes: usize) {
    ledger.fetch_add(bytes, Ordering::Relaxed);
}
