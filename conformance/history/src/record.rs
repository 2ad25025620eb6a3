//! What a history file holds: one JSON record per line, gzipped.
//!
//! The driver writes it, the checker reads it, nothing else connects the two. Times are microseconds since the start of the
//! run, by one monotonic clock. An object's version is described once, by a [`Version`] record, when the driver first
//! sees it; every other record names it by key, revision and content hash.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

/// resourceVersion; 0 is none.
pub type Rv = i64;
/// Microseconds since the run began.
pub type Micros = u64;

/// The number under which etcd itself is recorded where an API server's number stands.
pub const ETCD: u32 = u32::MAX;

/// One line of a history file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum Record {
    Start(Start),
    Version(Version),
    Call(Call),
    Opened(Opened),
    Seen(Seen),
    Closed(Closed),
    Fault(Fault),
    Shape(Shape),
    End(End),
}

/// The run's head: how to replay it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub seed: u64,
    pub seconds: u64,
    pub servers: Vec<String>,
    pub members: usize,
    pub rate: usize,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mutation: String,
}

/// A version of an object, as it was first seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// `namespace/name`.
    pub key: String,
    pub rv: Rv,
    /// Of the whole object without its resourceVersion.
    pub hash: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The write that made it; empty if none of ours.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The version that the write replaced, where it named one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prev: Rv,
    /// The counter.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n: i64,
    /// The label that selectors ask for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub colour: String,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// What a list or watch covers. Empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ns: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub colour: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

impl Scope {
    /// Whether nothing is filtered out.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a key is in the scope, its labels aside.
    #[must_use]
    pub fn holds_key(&self, key: &str) -> bool {
        let (ns, name) = key.split_once('/').unwrap_or(("", key));
        (self.ns.is_empty() || self.ns == ns) && (self.name.is_empty() || self.name == name)
    }

    /// Whether a version is in the scope.
    #[must_use]
    pub fn holds(&self, version: &Version) -> bool {
        self.holds_key(&version.key) && (self.colour.is_empty() || self.colour == version.colour)
    }
}

/// How fresh an answer claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum At {
    /// No resourceVersion: the newest there is.
    Latest,
    /// resourceVersion 0.
    Any,
    NotOlder(Rv),
    Exact(Rv),
}

/// One call with both times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub client: u32,
    /// Index of the API server, or [`ETCD`].
    pub server: u32,
    pub asked: Micros,
    pub answered: Micros,
    pub request: Request,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    Create {
        key: String,
        op: String,
    },
    /// A PUT; `base` 0: without resourceVersion.
    Update {
        key: String,
        op: String,
        base: Rv,
    },
    /// A merge patch; `base` 0: without resourceVersion.
    Patch {
        key: String,
        op: String,
        base: Rv,
    },
    /// A JSON patch that goes ahead only if the counter is `n`.
    Count {
        key: String,
        op: String,
        n: i64,
    },
    /// `base` 0 and `uid` empty: without preconditions.
    Delete {
        key: String,
        base: Rv,
        uid: String,
    },
    Get {
        key: String,
        at: At,
    },
    /// `limit` 0: in one piece, otherwise page by page.
    List {
        scope: Scope,
        at: At,
        limit: usize,
    },
}

impl Request {
    /// The write's own name.
    #[must_use]
    pub fn op(&self) -> Option<&str> {
        match self {
            Self::Create { op, .. } | Self::Update { op, .. } | Self::Patch { op, .. } | Self::Count { op, .. } => {
                Some(op)
            }
            Self::Delete { .. } | Self::Get { .. } | Self::List { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// No answer, or one that leaves open what happened (5xx).
    Unknown {
        why: String,
    },
    /// Nothing was changed. Code 0: the request never left.
    Refused {
        code: u16,
        reason: String,
    },
    Wrote {
        rv: Rv,
        hash: u64,
    },
    Deleted {
        uid: String,
    },
    Found {
        rv: Rv,
        hash: u64,
    },
    Missing,
    /// `hash`: of all items' contents, see [`combined`]; 0 where they are not known.
    Listed {
        rv: Rv,
        items: Vec<Item>,
        hash: u64,
    },
}

/// `key@revision`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Item {
    pub key: String,
    pub rv: Rv,
}

impl From<Item> for String {
    fn from(item: Item) -> Self {
        format!("{}@{}", item.key, item.rv)
    }
}

impl TryFrom<String> for Item {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (key, rv) = text.rsplit_once('@').ok_or("no @ in an item")?;
        let rv = rv.parse().map_err(|_| format!("no revision in {text}"))?;
        Ok(Self { key: key.into(), rv })
    }
}

/// A watch begins (is about to be asked for).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub watch: u64,
    pub client: u32,
    pub server: u32,
    pub asked: Micros,
    pub scope: Scope,
    pub begin: Begin,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Begin {
    /// After a revision.
    Rv(Rv),
    /// With the state, at least as fresh as said, then a bookmark that ends it.
    State(At),
}

/// Events of one watch, in order, that arrived together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub watch: u64,
    pub at: Micros,
    pub events: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    /// The bookmark that ends the initial events.
    Initial,
}

/// `A key@revision hash`; a bookmark has neither key nor hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Event {
    pub kind: Kind,
    pub key: String,
    pub rv: Rv,
    pub hash: u64,
}

impl From<Event> for String {
    fn from(event: Event) -> Self {
        let kind = match event.kind {
            Kind::Added => 'A',
            Kind::Modified => 'M',
            Kind::Deleted => 'D',
            Kind::Bookmark => 'B',
            Kind::Initial => 'I',
        };
        format!("{kind} {}@{} {:x}", event.key, event.rv, event.hash)
    }
}

impl TryFrom<String> for Event {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bad = || format!("not an event: {text}");
        let mut parts = text.split(' ');
        let kind = match parts.next() {
            Some("A") => Kind::Added,
            Some("M") => Kind::Modified,
            Some("D") => Kind::Deleted,
            Some("B") => Kind::Bookmark,
            Some("I") => Kind::Initial,
            _ => return Err(bad()),
        };
        let item = Item::try_from(parts.next().ok_or_else(bad)?.to_owned())?;
        let hash = parts
            .next()
            .and_then(|hash| u64::from_str_radix(hash, 16).ok())
            .ok_or_else(bad)?;
        Ok(Self {
            kind,
            key: item.key,
            rv: item.rv,
            hash,
        })
    }
}

/// A watch is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    pub watch: u64,
    pub at: Micros,
    pub why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// The server ended the stream.
    Ended,
    /// The connection broke, or the client gave up on a silent server.
    Broken,
    /// Refused, or an ERROR event.
    Refused { code: u16, reason: String },
    /// The run was over, and the watch had been given time to show the last write.
    Over,
}

/// What was done to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub at: Micros,
    pub what: String,
}

/// A request with one of the shapes of revision parameters, and what came back (see `shapes`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub row: String,
    pub server: u32,
    pub code: u16,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The list's revision, or the one of the bookmark that ended the initial events.
    pub rv: Rv,
    /// Names in a list; for a watch `A name`, `M name`, `I` and so on, up to the last event.
    pub told: Vec<String>,
    /// A continue token came along.
    pub more: bool,
    /// What the parameters' symbols stood for.
    pub mid: Rv,
    pub last: Rv,
}

/// The run came to its end: all faults were mended, and a last write was acknowledged at this revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// 0: no write succeeded any more.
    pub last: Rv,
    /// Ways of the driver's own that failed, for instance a program that did not come back.
    pub troubles: Vec<String>,
}

/// The hash of a list from those of its items: their order is checked by key.
#[must_use]
pub fn combined(hashes: impl Iterator<Item = u64>) -> u64 {
    hashes.fold(1, |all, hash| {
        all.rotate_left(5).wrapping_mul(0x0000_0100_0000_01B3) ^ hash
    })
}

/// A hash of a JSON value that does not depend on the order of its fields: FNV-1a over a canonical form.
#[must_use]
pub fn content_hash(value: &serde_json::Value) -> u64 {
    fn put(hash: &mut u64, bytes: &[u8]) {
        for byte in bytes {
            *hash = (*hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
    fn walk(hash: &mut u64, value: &serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                let mut keys: Vec<_> = map.keys().collect();
                keys.sort();
                put(hash, b"{");
                for key in keys {
                    put(hash, key.as_bytes());
                    put(hash, b"\0");
                    walk(hash, &map[key]);
                }
                put(hash, b"}");
            }
            serde_json::Value::Array(items) => {
                put(hash, b"[");
                items.iter().for_each(|item| walk(hash, item));
                put(hash, b"]");
            }
            plain => put(hash, plain.to_string().as_bytes()),
        }
    }
    let mut hash = 0xCBF2_9CE4_8422_2325;
    walk(&mut hash, value);
    hash
}

/// Writes a history file. Call [`Writer::finish`], or the last lines are lost.
pub struct Writer(GzEncoder<BufWriter<File>>);

impl Writer {
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Self(GzEncoder::new(BufWriter::new(file), Compression::new(3))))
    }

    pub fn put(&mut self, record: &Record) -> Result<()> {
        serde_json::to_writer(&mut self.0, record)?;
        self.0.write_all(b"\n")?;
        Ok(())
    }

    pub fn finish(self) -> Result<()> {
        self.0.finish()?.flush()?;
        Ok(())
    }
}

/// Reads a history file, record by record. A file that was cut off ends where it is cut off.
pub fn read(path: &Path, mut each: impl FnMut(Record) -> Result<()>) -> Result<()> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    for (number, line) in BufReader::new(MultiGzDecoder::new(BufReader::new(file)))
        .lines()
        .enumerate()
    {
        let place = || format!("{}: line {}", path.display(), number + 1);
        let line = match line {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other.with_context(place)?,
        };
        each(serde_json::from_str(&line).with_context(place)?)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_and_items_come_back_as_they_went() {
        let event = Event {
            kind: Kind::Modified,
            key: "h0/k1".into(),
            rv: 77,
            hash: 0xabc,
        };
        assert_eq!(Event::try_from(String::from(event.clone())).unwrap(), event);
        let bookmark = Event {
            kind: Kind::Bookmark,
            key: String::new(),
            rv: 78,
            hash: 0,
        };
        assert_eq!(Event::try_from(String::from(bookmark.clone())).unwrap(), bookmark);
        assert!(Event::try_from("junk".to_owned()).is_err());
    }

    #[test]
    fn the_content_hash_ignores_the_order_of_fields_only() {
        let one: serde_json::Value = serde_json::from_str(r#"{"a":1,"b":[1,2]}"#).unwrap();
        let other: serde_json::Value = serde_json::from_str(r#"{"b":[1,2],"a":1}"#).unwrap();
        assert_eq!(content_hash(&one), content_hash(&other));
        assert_ne!(content_hash(&one), content_hash(&json!({"a": 1, "b": [2, 1]})));
    }

    #[test]
    fn a_file_comes_back_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("history-{}.gz", std::process::id()));
        let records = [
            Record::Start(Start {
                seed: 1,
                ..Start::default()
            }),
            Record::Fault(Fault {
                at: 5,
                what: "kill etcd-1".into(),
            }),
            Record::End(End {
                last: 9,
                troubles: Vec::new(),
            }),
        ];
        let mut writer = Writer::create(&path).unwrap();
        records.iter().for_each(|record| writer.put(record).unwrap());
        writer.finish().unwrap();
        let mut seen = Vec::new();
        read(&path, |record| {
            seen.push(record);
            Ok(())
        })
        .unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(seen, records);
    }
}
