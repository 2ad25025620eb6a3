//! The state of the cache: per resource its objects and its part of the event log. Pure: no clock, no task, no store.
//!
//! [`State`] is guarded by one lock, so that all resources advance together. Everything here is short: reads take clones of
//! persistent trees, and what a write throws away is handed out to be dropped outside the lock.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use super::{
    CacheOptions, Error,
    encodings::Ledger,
    event::Event,
    object::Object,
    scope::{Scope, Topic, Topics, shard_of},
    snapshot::{Objects, Snapshot},
};
use crate::store::Revision;

/// One change, decoded: the key, and its new version or `None` for a deletion.
pub(crate) struct Decoded {
    pub key: Arc<str>,
    pub revision: Revision,
    pub object: Option<Arc<Object>>,
}

/// What a write of the state leaves to be done outside the lock.
#[derive(Default)]
pub(crate) struct Aftermath {
    pub wake: Vec<Arc<Topic>>,
    /// History became shorter: [`State::reaches`] may have changed.
    pub trimmed: bool,
    /// Only to be dropped.
    _garbage: Vec<Arc<Event>>,
    _shards: HashMap<Arc<str>, Shard>,
}

pub(crate) struct State {
    root: Box<str>,
    /// Resource prefix -> indexed fields.
    indexes: HashMap<Box<str>, Arc<[Arc<str>]>>,
    history_bytes: usize,
    ledger: Ledger,
    pub revision: Revision,
    /// Counts (re)loads: history does not reach over one. 0: nothing is loaded yet.
    pub epoch: u64,
    /// Nothing is told before this revision is reached: it was the newest one when the load began.
    target: Revision,
    /// Revision of the last load, where the history of every resource starts.
    floor: Revision,
    /// The store was compacted to here, as far as heard. States before are told no more, as if there were no memory of them:
    /// a list that was begun then goes on as upstream's, from the newest state.
    compacted: Revision,
    shards: HashMap<Arc<str>, Shard>,
    broken: BTreeMap<Arc<str>, Arc<Object>>,
}

/// One resource.
pub(crate) struct Shard {
    objects: Objects,
    indexed: Arc<[Arc<str>]>,
    log: VecDeque<Arc<Event>>,
    /// Sequence number of the log's first event.
    first: u64,
    /// History is complete after this revision.
    trimmed: Revision,
    /// Revision of the last event.
    last: Revision,
    /// What the log's events cost.
    bytes: usize,
    topics: Topics,
}

/// Where a watch stands.
pub(crate) struct Position {
    epoch: u64,
    /// Sequence number of the next event to look at.
    next: u64,
    /// Only events strictly after this revision are wanted.
    start: Revision,
    /// Everything in scope up to here has been delivered (or lies before the start).
    pub revision: Revision,
}

/// What a look at the log gave.
pub(crate) enum Look {
    Events(Vec<Arc<Event>>),
    /// Nothing (more) for this scope now.
    Idle,
    /// The look was cut short: look again.
    Again,
    Expired,
}

/// Events per look at most (whole revisions, so it can be a few more), and events looked at under the lock.
const EVENTS: usize = 128;
const LOOKS: usize = 4096;

impl State {
    pub fn new(options: &CacheOptions, ledger: Ledger) -> Self {
        let mut indexes: HashMap<Box<str>, Vec<Arc<str>>> = HashMap::new();
        for (resource, field) in &options.indexes {
            indexes
                .entry(resource.as_str().into())
                .or_default()
                .push(field.as_str().into());
        }
        State {
            root: options.prefix.as_str().into(),
            indexes: indexes.into_iter().map(|(k, v)| (k, v.into())).collect(),
            history_bytes: options.history_bytes,
            ledger,
            revision: 0,
            epoch: 0,
            target: 0,
            floor: 0,
            compacted: 0,
            shards: HashMap::new(),
            broken: BTreeMap::new(),
        }
    }

    /// Whether the state may be told.
    pub fn is_ready(&self) -> bool {
        self.epoch > 0 && self.revision >= self.target
    }

    /// Replaces everything by the state at `revision`, which is to be told when it has reached `target`. History starts
    /// anew: all watches expire.
    pub fn load(&mut self, objects: Vec<Arc<Object>>, revision: Revision, target: Revision) -> Aftermath {
        let mut sorted: HashMap<Arc<str>, Vec<Arc<Object>>> = HashMap::new();
        self.broken = objects
            .iter()
            .filter(|o| o.broken().is_some())
            .map(|o| (o.key().into(), o.clone()))
            .collect();
        for object in objects {
            let Some(shard) = shard_of(&self.root, object.key()) else {
                continue;
            };
            match sorted.get_mut(shard) {
                Some(objects) => objects.push(object),
                None => drop(sorted.insert(shard.into(), vec![object])),
            }
        }
        let shards = sorted
            .into_iter()
            .map(|(name, objects)| {
                let shard = Shard::new(self.indexed(&name), objects, revision);
                (name, shard)
            })
            .collect();
        let before = std::mem::replace(&mut self.shards, shards);
        self.revision = revision;
        self.floor = revision;
        self.target = target;
        self.epoch += 1;
        let wake = before.values().flat_map(|s| s.topics.all().cloned()).collect();
        Aftermath {
            wake,
            _shards: before,
            ..Aftermath::default()
        }
    }

    /// Applies changes in order and moves to `revision`, all at once.
    pub fn apply(&mut self, changes: Vec<Decoded>, revision: Revision) -> Aftermath {
        let mut after = Aftermath::default();
        for change in changes {
            // Repeated by a reconnection.
            if change.revision <= self.revision {
                continue;
            }
            let Some(name) = shard_of(&self.root, &change.key) else {
                continue;
            };
            match &change.object {
                Some(object) if object.broken().is_some() => {
                    self.broken.insert(change.key.clone(), object.clone());
                }
                _ => drop(self.broken.remove(&change.key)),
            }
            let ledger = self.ledger.clone();
            let root = self.root.clone();
            self.shard_mut(name).apply(change, &ledger, &root, &mut after.wake);
        }
        self.revision = self.revision.max(revision);
        self.trim(&mut after._garbage);
        after.trimmed = !after._garbage.is_empty();
        after
    }

    fn indexed(&self, shard: &str) -> Arc<[Arc<str>]> {
        self.indexes.get(shard).cloned().unwrap_or_default()
    }

    fn shard_mut(&mut self, name: &str) -> &mut Shard {
        if !self.shards.contains_key(name) {
            let shard = Shard::new(self.indexed(name), Vec::new(), self.floor);
            return self.shards.entry(name.into()).or_insert(shard);
        }
        // Present: checked above. (The borrow checker does not allow the `if let` form.)
        self.shards
            .entry(name.into())
            .or_insert_with(|| Shard::new(Arc::default(), Vec::new(), 0))
    }

    /// Drops oldest events of the largest logs until the history is within its budget.
    fn trim(&mut self, garbage: &mut Vec<Arc<Event>>) {
        let held = self.ledger.load(Ordering::Relaxed);
        let Some(mut over) = held.checked_sub(self.history_bytes).filter(|over| *over > 0) else {
            return;
        };
        // A little more than needed, so that this does not run for each event.
        over += self.history_bytes / 32;
        while over > 0
            && let Some(shard) = self.shards.values_mut().max_by_key(|s| s.bytes)
            && !shard.log.is_empty()
        {
            let chunk = (shard.log.len() / 16).max(1);
            for _ in 0..chunk {
                let Some(event) = shard.log.pop_front() else { break };
                shard.first += 1;
                shard.trimmed = event.revision();
                shard.bytes -= event.cost();
                over = over.saturating_sub(event.held());
                garbage.push(event);
                // Never leave a revision half in the log.
                while shard.log.front().is_some_and(|e| e.revision() == shard.trimmed)
                    && let Some(event) = shard.log.pop_front()
                {
                    shard.first += 1;
                    shard.bytes -= event.cost();
                    over = over.saturating_sub(event.held());
                    garbage.push(event);
                }
                if over == 0 {
                    break;
                }
            }
        }
    }

    pub fn get(&self, key: &str) -> Option<&Arc<Object>> {
        self.shards.get(shard_of(&self.root, key)?)?.objects.tree.get(key)
    }

    pub fn snapshot(&self, resource: &str) -> Snapshot {
        let objects = self.shards.get(resource).map(|s| s.objects.clone());
        let objects = objects.unwrap_or_else(|| Objects::from_sorted(Vec::new(), &self.indexed(resource)));
        Snapshot::new(self.revision, objects)
    }

    /// The resource now, and the events to undo to get back to `revision`, latest first.
    pub fn before(&self, resource: &str, revision: Revision) -> Result<(Objects, Vec<Arc<Event>>), Error> {
        if !self.is_ready() {
            return Err(Error::NotReady);
        }
        if revision > self.revision {
            return Err(Error::TooLarge {
                requested: revision,
                current: self.revision,
            });
        }
        if revision < self.compacted {
            return Err(Error::Expired {
                requested: revision,
                oldest: self.compacted,
            });
        }
        let Some(shard) = self.shards.get(resource) else {
            if revision < self.floor {
                return Err(Error::Expired {
                    requested: revision,
                    oldest: self.floor,
                });
            }
            return Ok((Objects::from_sorted(Vec::new(), &self.indexed(resource)), Vec::new()));
        };
        if revision < shard.trimmed {
            return Err(Error::Expired {
                requested: revision,
                oldest: shard.trimmed,
            });
        }
        let undo = shard
            .log
            .iter()
            .rev()
            .take_while(|e| e.revision() > revision)
            .cloned()
            .collect();
        Ok((shard.objects.clone(), undo))
    }

    /// Hears that the store is compacted to a revision.
    pub fn compact(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision);
    }

    /// Whether the history of the resource reaches back to the revision.
    pub fn reaches(&self, resource: &str, revision: Revision) -> bool {
        let oldest = self.shards.get(resource).map_or(self.floor, |s| s.trimmed);
        (oldest..=self.revision).contains(&revision)
    }

    /// Starts a watch strictly after `revision`, which may lie in the future.
    pub fn join(&mut self, scope: &Scope, revision: Revision) -> Result<(Position, Arc<Topic>), Error> {
        if !self.is_ready() {
            return Err(Error::NotReady);
        }
        let epoch = self.epoch;
        let shard = self.shard_mut(&scope.resource);
        if revision < shard.trimmed {
            return Err(Error::Expired {
                requested: revision,
                oldest: shard.trimmed,
            });
        }
        let skip = shard.log.partition_point(|e| e.revision() <= revision);
        let indexed = shard.indexed.clone();
        let topic = shard.topics.join(scope, &indexed, shard.last);
        Ok((
            Position {
                epoch,
                next: shard.first + skip as u64,
                start: revision,
                revision,
            },
            topic,
        ))
    }

    pub fn leave(&mut self, scope: &Scope, topic: &Arc<Topic>) {
        if let Some(shard) = self.shards.get_mut(&*scope.resource) {
            shard.topics.leave(topic);
        }
    }

    /// Moves the position to the newest revision if nothing is to be delivered before it. Takes no event away.
    pub fn advance(&self, scope: &Scope, topic: &Topic, at: &mut Position) -> bool {
        let Some(shard) = self.shards.get(&*scope.resource).filter(|_| at.epoch == self.epoch) else {
            return false;
        };
        let idle = topic.last() <= at.revision;
        if idle {
            at.next = shard.first + shard.log.len() as u64;
            at.revision = at.revision.max(self.revision);
        }
        idle
    }

    /// Looks for events of the scope from the position on, and moves the position behind what was looked at.
    pub fn look(&self, scope: &Scope, topic: &Topic, at: &mut Position) -> Look {
        if at.epoch != self.epoch {
            return Look::Expired;
        }
        let Some(shard) = self.shards.get(&*scope.resource) else {
            return Look::Idle;
        };
        if self.advance(scope, topic, at) {
            return Look::Idle;
        }
        let Some(skip) = at.next.checked_sub(shard.first) else {
            return Look::Expired;
        };
        let mut events = Vec::new();
        for (looked, event) in shard.log.range(skip.min(shard.log.len() as u64) as usize..).enumerate() {
            let whole = event.revision() != at.revision;
            if whole && (events.len() >= EVENTS || looked >= LOOKS) {
                return if events.is_empty() {
                    Look::Again
                } else {
                    Look::Events(events)
                };
            }
            at.next += 1;
            // The start was in the future.
            if event.revision() <= at.start {
                continue;
            }
            at.revision = event.revision();
            if scope.covers(event) {
                events.push(event.clone());
            }
        }
        at.revision = at.revision.max(self.revision);
        if events.is_empty() {
            Look::Idle
        } else {
            Look::Events(events)
        }
    }

    pub fn resources(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.shards.keys().cloned().collect();
        names.sort();
        names
    }

    pub fn broken(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.broken.values()
    }
}

impl Shard {
    fn new(indexed: Arc<[Arc<str>]>, objects: Vec<Arc<Object>>, floor: Revision) -> Self {
        Shard {
            objects: Objects::from_sorted(objects, &indexed),
            indexed,
            log: VecDeque::new(),
            first: 0,
            trimmed: floor,
            last: floor,
            bytes: 0,
            topics: Topics::default(),
        }
    }

    fn apply(&mut self, change: Decoded, ledger: &Ledger, root: &str, wake: &mut Vec<Arc<Topic>>) {
        let old = self.objects.tree.get(&change.key).cloned();
        self.objects.replace(old.as_ref(), change.object.as_ref());
        // Deleting what is not there is no event.
        let Some(event) = Event::change(old, change.object, change.revision, ledger).map(Arc::new) else {
            return;
        };
        self.last = change.revision;
        self.bytes += event.cost();
        self.topics.heard(root, &event, &self.indexed, wake);
        self.log.push_back(event);
    }
}
