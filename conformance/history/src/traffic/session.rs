//! What every client of the run shares, and one client's session: where it stands, what it has seen, how it records.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use http::Method;
use serde_json::Value;

use crate::dice::Dice;
use crate::record::{
    Answer, At, Call, Item, Micros, Record, Request, Rv, Scope, Version, Writer, combined, content_hash,
};
use crate::wire::{NoAnswer, Reply, Servers, Wire};

/// The collection under test.
pub const RESOURCE: &str = "configmaps";
/// Namespaces of the run; the shapes have their own.
pub const NAMESPACES: [&str; 2] = ["h0", "h1"];
/// Names that are created, changed and deleted, per namespace.
pub const CHURNED: usize = 20;
/// Names that only count up, per namespace.
pub const COUNTERS: usize = 3;
pub const COLOURS: [&str; 3] = ["red", "green", "blue"];
/// Revisions of lists that anybody may ask for again.
const RECENT: usize = 48;

/// Shared by all sessions; cheap to clone.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    begin: Instant,
    out: Mutex<Out>,
    recent: Mutex<VecDeque<Rv>>,
    stopped: AtomicBool,
}

struct Out {
    writer: Option<Writer>,
    described: HashSet<(Rv, u64)>,
    failed: Option<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(file: &Path) -> Result<Self> {
        let out = Out {
            writer: Some(Writer::create(file)?),
            described: HashSet::new(),
            failed: None,
        };
        Ok(Self(Arc::new(Inner {
            begin: Instant::now(),
            out: Mutex::new(out),
            recent: Mutex::default(),
            stopped: AtomicBool::new(false),
        })))
    }

    #[must_use]
    pub fn now(&self) -> Micros {
        Micros::try_from(self.0.begin.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    pub fn put(&self, record: &Record) {
        let mut out = locked(&self.0.out);
        if let Some(writer) = &mut out.writer
            && let Err(error) = writer.put(record)
        {
            out.failed = Some(error.to_string());
        }
    }

    /// Writers and readers shall end after the call that they are at.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Closes the file.
    pub fn finish(&self) -> Result<()> {
        let mut out = locked(&self.0.out);
        if let Some(why) = &out.failed {
            anyhow::bail!("the history could not be written: {why}");
        }
        out.writer.take().map_or(Ok(()), Writer::finish)
    }

    /// Key, revision and content hash of an object; describes a version that was never seen before. For the object of a
    /// DELETED event, which carries the deletion's revision, say `gone`.
    pub fn observe(&self, object: &Value, gone: bool) -> (String, Rv, u64) {
        let text = |path: &str| {
            object
                .pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let key = format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"));
        let rv = text("/metadata/resourceVersion").parse().unwrap_or_default();
        let mut content = object.clone();
        if let Some(map) = content.as_object_mut() {
            // Items of a list have neither.
            map.remove("kind");
            map.remove("apiVersion");
        }
        if let Some(map) = content.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            map.remove("resourceVersion");
        }
        let hash = content_hash(&content);
        if !gone && locked(&self.0.out).described.insert((rv, hash)) {
            self.put(&Record::Version(Version {
                key: key.clone(),
                rv,
                hash,
                uid: text("/metadata/uid"),
                op: text("/data/op"),
                prev: text("/data/prev").parse().unwrap_or_default(),
                n: text("/data/n").parse().unwrap_or_default(),
                colour: text("/metadata/labels/colour"),
            }));
        }
        (key, rv, hash)
    }

    /// Notes a list's revision, for those who will ask for exactly this one.
    fn remember(&self, rv: Rv) {
        let mut recent = locked(&self.0.recent);
        if recent.len() >= RECENT {
            recent.pop_front();
        }
        recent.push_back(rv);
    }

    fn recall(&self, dice: &mut Dice) -> Option<Rv> {
        let recent = locked(&self.0.recent);
        (!recent.is_empty()).then(|| recent[dice.below(recent.len())])
    }
}

/// One client. It hops between servers, and remembers the newest revision that it was shown anywhere.
pub struct Session {
    pub shared: Shared,
    pub wire: Wire,
    pub dice: Dice,
    pub number: u32,
    pub server: usize,
    servers: usize,
    /// The newest revision that any answer showed.
    pub newest: Rv,
    writes: u64,
}

impl Session {
    #[must_use]
    pub fn new(shared: &Shared, servers: &Servers, dice: &Dice, number: u32) -> Self {
        let mut dice = dice.part(u64::from(number) + 1);
        let count = servers.urls.len();
        Self {
            shared: shared.clone(),
            wire: Wire::new(servers, number),
            server: dice.below(count),
            dice,
            number,
            servers: count,
            newest: 0,
            writes: 0,
        }
    }

    pub fn hop(&mut self) {
        self.server = self.dice.below(self.servers);
    }

    /// A name for the next write.
    pub fn next_op(&mut self) -> String {
        self.writes += 1;
        format!("c{}-{}", self.number, self.writes)
    }

    /// A revision that a list had lately, if there was one.
    pub fn recall(&mut self) -> Option<Rv> {
        self.shared.recall(&mut self.dice)
    }

    /// How long to wait for the next answer.
    fn patience(&mut self) -> Duration {
        self.dice.millis(1_000, 6_000)
    }

    /// One request, recorded. `read` makes the answer of what came back with a good code.
    pub async fn call(
        &mut self,
        request: Request,
        method: Method,
        path: &str,
        media: &str,
        body: &Value,
    ) -> (Answer, Option<Value>) {
        // Sometimes another server, so that sessions do not only change when something fails.
        if self.dice.percent(4) {
            self.hop();
        }
        let patience = self.patience();
        let asked = self.shared.now();
        let reply = self.wire.send(self.server, method, path, media, body, patience).await;
        let answered = self.shared.now();
        let (answer, body) = self.read_reply(&request, reply);
        let server = u32::try_from(self.server).unwrap_or_default();
        if matches!(answer, Answer::Unknown { .. } | Answer::Refused { code: 0, .. }) && self.dice.percent(60) {
            self.hop();
        }
        let call = Call {
            client: self.number,
            server,
            asked,
            answered,
            request,
            answer: answer.clone(),
        };
        self.shared.put(&Record::Call(call));
        (answer, body)
    }

    fn read_reply(&mut self, request: &Request, reply: Result<Reply, NoAnswer>) -> (Answer, Option<Value>) {
        let reply = match reply {
            Ok(reply) => reply,
            Err(NoAnswer::Unsent) => {
                return (
                    Answer::Refused {
                        code: 0,
                        reason: String::new(),
                    },
                    None,
                );
            }
            Err(NoAnswer::Lost(why)) => return (Answer::Unknown { why }, None),
        };
        if !reply.is_good() {
            let get = matches!(request, Request::Get { .. });
            let answer = match reply.code {
                404 if get => Answer::Missing,
                code @ 400..500 => Answer::Refused {
                    code,
                    reason: reply.reason(),
                },
                code => Answer::Unknown {
                    why: format!("{code} {}", reply.reason()),
                },
            };
            return (answer, None);
        }
        let answer = match request {
            Request::Delete { .. } => {
                let uid = reply
                    .body
                    .pointer("/details/uid")
                    .or_else(|| reply.body.pointer("/metadata/uid"));
                Answer::Deleted {
                    uid: uid.and_then(Value::as_str).unwrap_or_default().into(),
                }
            }
            Request::Get { .. } => {
                let (_, rv, hash) = self.shared.observe(&reply.body, false);
                self.newest = self.newest.max(rv);
                Answer::Found { rv, hash }
            }
            _ => {
                let (_, rv, hash) = self.shared.observe(&reply.body, false);
                self.newest = self.newest.max(rv);
                Answer::Wrote { rv, hash }
            }
        };
        (answer, Some(reply.body))
    }

    /// GET of one object.
    pub async fn get(&mut self, key: &str, at: At) -> (Answer, Option<Value>) {
        let mut path = object_path(key);
        match at {
            At::Latest => {}
            At::Any => path.push_str("?resourceVersion=0"),
            At::NotOlder(rv) | At::Exact(rv) => path.push_str(&format!("?resourceVersion={rv}")),
        }
        let request = Request::Get { key: key.into(), at };
        self.call(request, Method::GET, &path, "application/json", &Value::Null)
            .await
    }

    /// A list, in one piece or in pages; one call in the record.
    pub async fn list(&mut self, scope: &Scope, at: At, limit: usize) -> Answer {
        let base = format!("{}?{}", collection_path(&scope.ns), selectors(scope));
        let first = match at {
            At::Latest => String::new(),
            At::Any => "resourceVersion=0&".into(),
            At::NotOlder(rv) => format!("resourceVersion={rv}&resourceVersionMatch=NotOlderThan&"),
            At::Exact(rv) => format!("resourceVersion={rv}&resourceVersionMatch=Exact&"),
        };
        let limited = if limit > 0 {
            format!("limit={limit}&")
        } else {
            String::new()
        };
        let patience = self.patience();
        let server = self.server;
        let asked = self.shared.now();
        let (mut items, mut hashes, mut revision) = (Vec::new(), Vec::new(), 0);
        let mut token = String::new();
        let answer = loop {
            let path = if token.is_empty() {
                format!("{base}{first}{limited}")
            } else {
                format!("{base}{limited}continue={token}")
            };
            // Pages may come from different servers.
            if !token.is_empty() && self.dice.percent(30) {
                self.hop();
            }
            let reply = match self
                .wire
                .get(self.server, path.trim_end_matches(['&', '?']), patience)
                .await
            {
                Ok(reply) => reply,
                Err(NoAnswer::Unsent) => {
                    break Answer::Refused {
                        code: 0,
                        reason: String::new(),
                    };
                }
                Err(NoAnswer::Lost(why)) => break Answer::Unknown { why },
            };
            if !reply.is_good() {
                break match reply.code {
                    code @ 400..500 => Answer::Refused {
                        code,
                        reason: reply.reason(),
                    },
                    code => Answer::Unknown {
                        why: format!("{code} {}", reply.reason()),
                    },
                };
            }
            let text = |path: &str| {
                reply
                    .body
                    .pointer(path)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let rv: Rv = text("/metadata/resourceVersion").parse().unwrap_or_default();
            for item in reply
                .body
                .pointer("/items")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let (key, rv, hash) = self.shared.observe(item, false);
                items.push(Item { key, rv });
                hashes.push(hash);
            }
            if revision != 0 && rv != revision {
                let reason = format!("page at {rv} of a list at {revision}");
                break Answer::Refused { code: 1, reason };
            }
            revision = rv;
            token = text("/metadata/continue");
            if token.is_empty() {
                let hash = combined(hashes.into_iter());
                break Answer::Listed { rv, items, hash };
            }
        };
        let answered = self.shared.now();
        if let Answer::Listed { rv, .. } = &answer {
            self.newest = self.newest.max(*rv);
            self.shared.remember(*rv);
        }
        let request = Request::List {
            scope: scope.clone(),
            at,
            limit,
        };
        let server = u32::try_from(server).unwrap_or_default();
        let call = Call {
            client: self.number,
            server,
            asked,
            answered,
            request,
            answer: answer.clone(),
        };
        self.shared.put(&Record::Call(call));
        if matches!(answer, Answer::Unknown { .. } | Answer::Refused { code: 0, .. }) && self.dice.percent(60) {
            self.hop();
        }
        answer
    }
}

/// `/api/v1/…` of a collection; of all namespaces for an empty name.
#[must_use]
pub fn collection_path(ns: &str) -> String {
    if ns.is_empty() {
        format!("/api/v1/{RESOURCE}")
    } else {
        format!("/api/v1/namespaces/{ns}/{RESOURCE}")
    }
}

#[must_use]
pub fn object_path(key: &str) -> String {
    let (ns, name) = key.split_once('/').unwrap_or(("", key));
    format!("{}/{name}", collection_path(ns))
}

/// The selectors of a scope as parameters.
#[must_use]
pub fn selectors(scope: &Scope) -> String {
    let mut text = String::new();
    if !scope.colour.is_empty() {
        text.push_str(&format!("labelSelector=colour%3D{}&", scope.colour));
    }
    if !scope.name.is_empty() {
        text.push_str(&format!("fieldSelector=metadata.name%3D{}&", scope.name));
    }
    text
}
