//! A consumer's mailbox: bounded by merging.
//!
//! The mailbox keeps at most one entry per object: what the reader saw last, and what is there now. So a reader that
//! falls behind skips states in between but never misses that an object came, changed or went, and memory is bounded by
//! the number of objects instead of by a limit that would have to drop something.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Event, Key, Object};

struct Entry<T> {
    /// What the reader knows.
    before: Option<Arc<T>>,
    /// What is there now.
    after: Option<Arc<T>>,
    /// The most recent state, also of an object that is gone.
    last: Arc<T>,
}

struct Pending<T> {
    order: VecDeque<Key>,
    entries: HashMap<Key, Entry<T>>,
    closed: bool,
}

pub(super) struct Mailbox<T> {
    pending: Mutex<Pending<T>>,
    arrived: Notify,
}

impl<T: Object> Mailbox<T> {
    pub(super) fn new() -> Self {
        let pending = Pending {
            order: VecDeque::new(),
            entries: HashMap::new(),
            closed: false,
        };
        Self {
            pending: Mutex::new(pending),
            arrived: Notify::new(),
        }
    }

    pub(super) fn put(&self, event: &Event<T>) {
        let key = Key::of(event.object().as_ref());
        let (before, after) = match event {
            Event::Added(new) => (None, Some(new.clone())),
            Event::Updated { old, new } => (Some(old.clone()), Some(new.clone())),
            Event::Deleted(old) => (Some(old.clone()), None),
        };
        let last = event.object().clone();
        {
            let mut pending = self.pending.lock();
            if let Some(entry) = pending.entries.get_mut(&key) {
                entry.after = after;
                entry.last = last;
            } else {
                pending.order.push_back(key.clone());
                pending.entries.insert(key, Entry { before, after, last });
            }
        }
        self.arrived.notify_one();
    }

    pub(super) fn close(&self) {
        self.pending.lock().closed = true;
        self.arrived.notify_one();
    }

    /// `Err(closed)` when nothing is pending.
    fn take(&self) -> Result<Event<T>, bool> {
        let mut pending = self.pending.lock();
        while let Some(key) = pending.order.pop_front() {
            let Some(entry) = pending.entries.remove(&key) else {
                continue;
            };
            match (entry.before, entry.after) {
                (None, None) => {}
                (None, Some(new)) => return Ok(Event::Added(new)),
                (Some(_), None) => return Ok(Event::Deleted(entry.last)),
                (Some(old), Some(new)) if old.meta().uid == new.meta().uid => return Ok(Event::Updated { old, new }),
                (Some(old), Some(new)) => {
                    // Replaced by another object of the same name: tell the end first.
                    let last = new.clone();
                    pending.order.push_front(key.clone());
                    pending.entries.insert(
                        key,
                        Entry {
                            before: None,
                            after: Some(new),
                            last,
                        },
                    );
                    return Ok(Event::Deleted(old));
                }
            }
        }
        Err(pending.closed)
    }
}

/// Receives one informer's events. See the module for what happens when it is slow.
pub struct Subscription<T> {
    mailbox: Arc<Mailbox<T>>,
}

impl<T: Object> Subscription<T> {
    pub(super) fn new(mailbox: Arc<Mailbox<T>>) -> Self {
        Self { mailbox }
    }

    /// The next event; `None` once the informer has stopped. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event<T>> {
        loop {
            match self.mailbox.take() {
                Ok(event) => return Some(event),
                Err(true) => return None,
                Err(false) => self.mailbox.arrived.notified().await,
            }
        }
    }

    /// The next event if one is there now.
    pub fn try_recv(&mut self) -> Option<Event<T>> {
        self.mailbox.take().ok()
    }
}
