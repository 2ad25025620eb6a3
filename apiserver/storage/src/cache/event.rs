//! One entry of the event log.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    encodings::{Encodings, Ledger, hold, release},
    object::Object,
    tree::Keyed,
};
use crate::store::Revision;

/// Bookkeeping of an event besides the old version, in bytes (about).
const OVERHEAD: usize = 160;

/// One change, with the object before and after. Shared by all watches.
pub struct Event {
    /// At least one of the two is there.
    old: Option<Arc<Object>>,
    new: Option<Arc<Object>>,
    key: Arc<str>,
    revision: Revision,
    encodings: Encodings,
    /// Counts what this event holds: entered when it is made, taken back when it is dropped.
    ledger: Ledger,
}

impl Event {
    /// The change of `new.or(old)`'s key; `None` if there is neither.
    pub(crate) fn change(
        old: Option<Arc<Object>>,
        new: Option<Arc<Object>>,
        revision: Revision,
        ledger: &Ledger,
    ) -> Option<Self> {
        let key = Keyed::key(new.as_ref().or(old.as_ref())?).clone();
        let event = Event {
            old,
            new,
            key,
            revision,
            encodings: Encodings::default(),
            ledger: ledger.clone(),
        };
        hold(ledger, event.cost());
        Some(event)
    }

    /// The object before; `None` for a creation.
    pub fn old(&self) -> Option<&Arc<Object>> {
        self.old.as_ref()
    }

    /// The object after; `None` for a deletion.
    #[allow(clippy::new_ret_no_self, clippy::wrong_self_convention)]
    pub fn new(&self) -> Option<&Arc<Object>> {
        self.new.as_ref()
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// Revision of the change: the resourceVersion that the event's object carries, also for a deletion.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The event in the encoding that the caller calls `slot` (its own numbering: event type, media type, version), made once
    /// and shared by all watches while the event is in the log.
    pub fn encoding<E>(&self, slot: u8, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        self.encodings.get_or_make(slot, make, |size| hold(&self.ledger, size))
    }

    /// Bytes that live because of this event: the old version (the new one is in the map, or the next event's old one).
    pub(crate) fn cost(&self) -> usize {
        OVERHEAD + self.old.as_ref().map_or(0, |o| o.cost())
    }

    /// [`Event::cost`] and the encodings made by now.
    pub(crate) fn held(&self) -> usize {
        self.cost() + self.encodings.size()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        release(&self.ledger, self.held());
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match (&self.old, &self.new) {
            (None, _) => "created",
            (_, None) => "deleted",
            _ => "updated",
        };
        write!(f, "{what} {} at {}", self.key, self.revision)
    }
}
