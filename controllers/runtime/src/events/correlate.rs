//! Which event object a record becomes: a new one, one more of a known one, or none.
//!
//! Pure apart from its memory; the record carries the time. Three steps, as upstream:
//! 1. spam filter: per object 25 records at once, then one per 300 s;
//! 2. aggregation: when more than ten different messages share object, type and reason within 600 s, further ones
//!    become one event "(combined from similar events): …";
//! 3. counting: a record equal to a known one raises its count.
//!
//! Bounded: each memory keeps the 4096 most recently used keys.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use jiff::Timestamp;

use super::Record;

const KEYS: usize = 4096;
const SIMILAR: usize = 10;
const SIMILAR_SECONDS: f64 = 600.0;
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

type ObjectKey = (String, String, String, String);
type SimilarKey = (ObjectKey, &'static str, String);
type ExactKey = (SimilarKey, String);

pub(crate) enum Action {
    Drop,
    Write(Box<Write>),
}

/// An event to be stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Write {
    pub message: String,
    pub count: i32,
    pub first: Timestamp,
    /// The stored event to count up.
    pub known: Option<String>,
    key: ExactKey,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Known {
    name: String,
    count: i32,
    first: Timestamp,
}

/// Least recently used entries go first.
struct Lru<K, V> {
    entries: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    clock: u64,
}

impl<K: Clone + Eq + Hash, V> Default for Lru<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    fn get(&mut self, key: &K) -> Option<V> {
        let (clock, value) = self.entries.remove(key)?;
        self.order.remove(&clock);
        Some(value)
    }

    fn put(&mut self, key: K, value: V) {
        self.clock += 1;
        self.order.insert(self.clock, key.clone());
        if let Some((clock, _)) = self.entries.insert(key, (self.clock, value)) {
            self.order.remove(&clock);
        }
        while self.entries.len() > KEYS {
            let Some((_, oldest)) = self.order.pop_first() else {
                return;
            };
            self.entries.remove(&oldest);
        }
    }
}

#[derive(Default)]
pub(crate) struct Correlator {
    buckets: Lru<ObjectKey, Bucket>,
    similar: Lru<SimilarKey, Similar>,
    known: Lru<ExactKey, Known>,
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

impl Correlator {
    pub(crate) fn take(&mut self, record: &Record) -> Action {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let object = (
            text(&record.object.kind),
            text(&record.object.namespace),
            text(&record.object.name),
            text(&record.object.uid),
        );
        if !self.allowed(&object, record.at) {
            return Action::Drop;
        }
        let similar_key = (object, record.kind.as_str(), record.reason.clone());
        let combined = self.is_one_of_many(&similar_key, record);
        let (message, key) = if combined {
            (
                format!("(combined from similar events): {}", record.message),
                (similar_key, String::new()),
            )
        } else {
            // The field path keeps a pod's containers apart.
            let exact = format!("{}\n{}", text(&record.object.field_path), record.message);
            (record.message.clone(), (similar_key, exact))
        };
        let known = self.known.get(&key);
        Action::Write(Box::new(match known {
            None => Write {
                message,
                count: 1,
                first: record.at,
                known: None,
                key,
            },
            Some(known) => Write {
                message,
                count: known.count.saturating_add(1),
                first: known.first,
                known: Some(known.name),
                key,
            },
        }))
    }

    /// The event is stored under `name`; `None`: it is not.
    pub(crate) fn written(&mut self, write: &Write, name: Option<String>) {
        if let Some(name) = name {
            self.known.put(
                write.key.clone(),
                Known {
                    name,
                    count: write.count,
                    first: write.first,
                },
            );
        }
    }

    fn allowed(&mut self, object: &ObjectKey, now: Timestamp) -> bool {
        let mut bucket = self.buckets.get(object).unwrap_or(Bucket { tokens: BURST, at: now });
        bucket.tokens = (bucket.tokens + seconds(bucket.at, now).max(0.0) * REFILL_PER_SECOND).min(BURST);
        bucket.at = now;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        self.buckets.put(object.clone(), bucket);
        allowed
    }

    fn is_one_of_many(&mut self, key: &SimilarKey, record: &Record) -> bool {
        let fresh = || Similar {
            messages: HashSet::new(),
            last: record.at,
        };
        let mut similar = self.similar.get(key).unwrap_or_else(fresh);
        if seconds(similar.last, record.at) > SIMILAR_SECONDS {
            similar = fresh();
        }
        similar.messages.insert(record.message.clone());
        similar.last = record.at;
        let many = similar.messages.len() >= SIMILAR;
        if many {
            // Keep the set from growing; it stays at the limit.
            similar.messages.remove(&record.message);
            similar.messages.insert(String::new());
        }
        self.similar.put(key.clone(), similar);
        many
    }
}

#[cfg(test)]
mod tests {
    use super::super::EventType;
    use super::*;
    use steersman_types::api::core::v1::ObjectReference;

    fn record(message: &str, at: i64) -> Record {
        Record {
            object: ObjectReference {
                name: Some("web".into()),
                ..ObjectReference::default()
            },
            kind: EventType::Normal,
            reason: "Testing".into(),
            message: message.into(),
            annotations: std::collections::BTreeMap::new(),
            at: Timestamp::from_second(at).unwrap_or_default(),
        }
    }

    fn write(correlator: &mut Correlator, message: &str, at: i64) -> Option<Box<Write>> {
        match correlator.take(&record(message, at)) {
            Action::Drop => None,
            Action::Write(write) => {
                correlator.written(&write, Some(write.known.clone().unwrap_or_else(|| format!("e{at}"))));
                Some(write)
            }
        }
    }

    #[test]
    fn an_equal_event_is_counted_on_the_first_one() {
        let mut correlator = Correlator::default();
        assert!(write(&mut correlator, "m", 1).is_some_and(|w| w.count == 1 && w.known.is_none()));
        let again = write(&mut correlator, "m", 5);
        assert!(again.is_some_and(|w| w.count == 2 && w.known.as_deref() == Some("e1") && w.first.as_second() == 1));
    }

    #[test]
    fn more_than_ten_similar_messages_are_combined() {
        let mut correlator = Correlator::default();
        for i in 0..9 {
            assert!(write(&mut correlator, &format!("m{i}"), i).is_some_and(|w| !w.message.starts_with('(')));
        }
        let combined = write(&mut correlator, "m9", 9);
        assert!(combined.is_some_and(|w| w.message == "(combined from similar events): m9"));
        assert!(write(&mut correlator, "m10", 10).is_some_and(|w| w.count == 2));
        assert!(write(&mut correlator, "later", 2000).is_some_and(|w| w.message == "later"));
    }

    #[test]
    fn one_object_s_events_are_limited_to_a_burst_of_25() {
        let mut correlator = Correlator::default();
        let written = (0..100).filter(|_| write(&mut correlator, "m", 1).is_some()).count();
        assert_eq!(written, 25);
        assert!(write(&mut correlator, "m", 302).is_some());
        assert!(write(&mut correlator, "m", 303).is_none());
    }
}
