//! The copy itself: objects by key, indexes, and the consumers of changes.
//!
//! Used by the reflector (writes) and [`super::Informer`] (reads). One mutex orders changes and consumers, so that a
//! consumer that joins late gets the present objects and then every later change, nothing twice. Readers only take the
//! inner lock, for as long as a lookup takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::subscription::{Mailbox, Subscription};
use super::{Event, Key, Object};

type Extract<T> = Box<dyn Fn(&T) -> Vec<String> + Send + Sync>;
type Handler<T> = Box<dyn Fn(&Event<T>) + Send + Sync>;

/// Names an index of one informer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexId(usize);

/// The index that every store has: by UID of each owner.
pub(super) const OWNERS: IndexId = IndexId(0);

struct Index<T> {
    extract: Extract<T>,
    keys: HashMap<String, BTreeSet<Key>>,
}

impl<T> Index<T> {
    fn add(&mut self, key: &Key, object: &T) {
        for text in (self.extract)(object) {
            self.keys.entry(text).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &T) {
        for text in (self.extract)(object) {
            if let Some(keys) = self.keys.get_mut(&text) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&text);
                }
            }
        }
    }
}

struct State<T> {
    objects: BTreeMap<Key, Arc<T>>,
    indexes: Vec<Index<T>>,
}

struct Consumers<T> {
    handlers: Vec<Handler<T>>,
    mailboxes: Vec<Arc<Mailbox<T>>>,
    closed: bool,
}

pub(super) struct Store<T> {
    /// Takes away what nobody in this program reads.
    trim: fn(&mut T),
    state: RwLock<State<T>>,
    consumers: Mutex<Consumers<T>>,
    synced: watch::Sender<bool>,
    revision: watch::Sender<u64>,
}

impl<T: Object> Store<T> {
    pub(super) fn new(trim: fn(&mut T)) -> Self {
        let owners: Extract<T> = Box::new(|object| {
            object
                .meta()
                .owner_references
                .iter()
                .flatten()
                .map(|owner| owner.uid.clone())
                .collect()
        });
        Self {
            trim,
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                indexes: vec![Index {
                    extract: owners,
                    keys: HashMap::new(),
                }],
            }),
            consumers: Mutex::new(Consumers {
                handlers: Vec::new(),
                mailboxes: Vec::new(),
                closed: false,
            }),
            synced: watch::Sender::new(false),
            revision: watch::Sender::new(0),
        }
    }

    // Reading.

    pub(super) fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.state.read().objects.get(key).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<T>> {
        self.state.read().objects.values().cloned().collect()
    }

    pub(super) fn list_in(&self, namespace: &str) -> Vec<Arc<T>> {
        let from = Key::new(namespace, "");
        let state = self.state.read();
        state
            .objects
            .range(from..)
            .take_while(|(k, _)| k.namespace == namespace)
            .map(|(_, o)| o.clone())
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    pub(super) fn by_index(&self, index: IndexId, text: &str) -> Vec<Arc<T>> {
        let state = self.state.read();
        let Some(keys) = state.indexes.get(index.0).and_then(|index| index.keys.get(text)) else {
            return Vec::new();
        };
        keys.iter().filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    pub(super) fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    pub(super) async fn synced(&self) {
        // The sender lives in self: waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    pub(super) fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(super) async fn caught_up(&self, revision: u64, limit: Duration) -> bool {
        let mut seen = self.revision.subscribe();
        let reached = seen.wait_for(|seen| *seen >= revision);
        tokio::time::timeout(limit, reached).await.is_ok()
    }

    // Consumers.

    pub(super) fn add_index(&self, extract: Extract<T>) -> IndexId {
        let mut state = self.state.write();
        let mut index = Index {
            extract,
            keys: HashMap::new(),
        };
        for (key, object) in &state.objects {
            index.add(key, object);
        }
        state.indexes.push(index);
        IndexId(state.indexes.len() - 1)
    }

    pub(super) fn add_handler(&self, handler: Handler<T>) {
        let mut consumers = self.consumers.lock();
        for object in self.list() {
            handler(&Event::Added(object));
        }
        consumers.handlers.push(handler);
    }

    pub(super) fn subscribe(&self) -> Subscription<T> {
        let mut consumers = self.consumers.lock();
        let mailbox = Arc::new(Mailbox::new());
        for object in self.list() {
            mailbox.put(&Event::Added(object));
        }
        if consumers.closed {
            mailbox.close();
        }
        consumers.mailboxes.push(mailbox.clone());
        Subscription::new(mailbox)
    }

    /// No more events will come: wakes subscribers for good.
    pub(super) fn close(&self) {
        let mut consumers = self.consumers.lock();
        consumers.closed = true;
        for mailbox in &consumers.mailboxes {
            mailbox.close();
        }
    }

    // Writing; only the reflector's task.

    /// What is kept of an object. Small and in a place of its own at once: a list is decoded one by one.
    pub(super) fn kept(&self, mut object: T) -> Arc<T> {
        object.meta_mut().managed_fields = None;
        (self.trim)(&mut object);
        Arc::new(object)
    }

    /// Takes a fresh list as the truth: what is missing from it was deleted meanwhile.
    pub(super) fn replace(&self, objects: Vec<Arc<T>>, revision: u64) {
        let mut gone: BTreeSet<Key> = self.state.read().objects.keys().cloned().collect();
        for object in &objects {
            gone.remove(&Key::of(object.as_ref()));
        }
        for key in gone {
            self.remove(&key, None);
        }
        for object in objects {
            self.put(object);
        }
        self.set_revision(revision);
        self.synced.send_replace(true);
    }

    /// An object as the server has it now.
    pub(super) fn put(&self, new: Arc<T>) {
        let key = Key::of(new.as_ref());
        let mut consumers = self.consumers.lock();
        let old = {
            let mut state = self.state.write();
            let old = state.objects.insert(key.clone(), new.clone());
            for index in &mut state.indexes {
                if let Some(old) = &old {
                    index.remove(&key, old);
                }
                index.add(&key, &new);
            }
            old
        };
        match old {
            None => consumers.tell(&Event::Added(new)),
            // A relist returns what is known already: no change, no event.
            Some(old) if same_version(old.as_ref(), new.as_ref()) => {}
            Some(old) if old.meta().uid != new.meta().uid => {
                consumers.tell(&Event::Deleted(old));
                consumers.tell(&Event::Added(new));
            }
            Some(old) => consumers.tell(&Event::Updated { old, new }),
        }
    }

    /// The object is gone; `last` is its final state when the server sent it.
    pub(super) fn remove(&self, key: &Key, last: Option<Arc<T>>) {
        let mut consumers = self.consumers.lock();
        let old = {
            let mut state = self.state.write();
            let old = state.objects.remove(key);
            if let Some(old) = &old {
                for index in &mut state.indexes {
                    index.remove(key, old);
                }
            }
            old
        };
        if let Some(old) = old {
            consumers.tell(&Event::Deleted(last.unwrap_or(old)));
        }
    }

    pub(super) fn set_revision(&self, revision: u64) {
        self.revision.send_if_modified(|seen| {
            let newer = revision > *seen;
            *seen = revision.max(*seen);
            newer
        });
    }
}

fn same_version<T: Object>(old: &T, new: &T) -> bool {
    let version = &new.meta().resource_version;
    version.is_some() && old.meta().resource_version == *version && old.meta().uid == new.meta().uid
}

impl<T: Object> Consumers<T> {
    fn tell(&mut self, event: &Event<T>) {
        for handler in &self.handlers {
            handler(event);
        }
        // A mailbox of which only our own reference is left has no reader any more.
        self.mailboxes.retain(|mailbox| Arc::strong_count(mailbox) > 1);
        for mailbox in &self.mailboxes {
            mailbox.put(event);
        }
    }
}
