//! Faulty servers to order: what a session sends and sees is falsified now and then, so that each invariant's checks can
//! be seen to catch, end to end, what they exist for.

use std::collections::HashMap;

use http::Method;
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::wire::Reply;

/// One way to be faulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutation {
    /// A write is acknowledged that was never stored.
    ForgetWrite,
    /// A write that was stored is refused.
    DenyWrite,
    /// An update goes through although its resourceVersion is old.
    LoseUpdate,
    /// A consistent GET answers with an old version.
    StaleGet,
    /// A consistent LIST answers with an old state.
    StaleList,
    /// A LIST lacks an item.
    HoleInList,
    /// A LIST claims a later revision than its items show.
    ListAhead,
    /// An event is lost.
    DropEvent,
    /// An event is sent twice.
    RepeatEvent,
    /// Two events change places.
    SwapEvents,
    /// A bookmark is ahead of what was delivered.
    BookmarkAhead,
    /// DELETED carries the revision of the last write instead of the deletion's.
    DeletedAsBefore,
    /// A selector lets everything through.
    LeakSelector,
    /// The events of a watch with initial state lack an object.
    HoleInInitial,
    /// Exact is treated as "not older than".
    ExactAsNewer,
}

impl Mutation {
    /// The invariants of which at least one must be found violated.
    #[must_use]
    pub fn breaks(self) -> &'static [&'static str] {
        match self {
            Self::ForgetWrite | Self::DenyWrite => &["C1"],
            Self::LoseUpdate => &["C3"],
            Self::StaleGet => &["C1", "C8"],
            Self::StaleList => &["C8"],
            Self::HoleInList | Self::ListAhead => &["C2"],
            Self::DropEvent | Self::RepeatEvent | Self::SwapEvents | Self::BookmarkAhead | Self::DeletedAsBefore => {
                &["C5"]
            }
            Self::LeakSelector => &["C7"],
            Self::HoleInInitial => &["C6"],
            Self::ExactAsNewer => &["C9", "C10"],
        }
    }
}

/// Applies a mutation in one session.
pub struct Liar {
    mutation: Mutation,
    dice: Dice,
    /// Answers that were given before, by path.
    before: HashMap<String, Reply>,
    /// An event that is held back, to come after the next one.
    held: Option<Value>,
}

/// A lie in so many of a hundred cases.
const OFTEN: usize = 20;

impl Liar {
    #[must_use]
    pub fn new(mutation: Mutation, session: u32) -> Self {
        Self {
            mutation,
            dice: Dice::new(99).part(u64::from(session)),
            before: HashMap::new(),
            held: None,
        }
    }

    /// Another path and body to send instead.
    pub fn request(&mut self, method: &Method, path: &str, body: &Value) -> Option<(String, Value)> {
        let joined = |more: &str| format!("{path}{}{more}", if path.contains('?') { '&' } else { '?' });
        let read = *method == Method::GET;
        match self.mutation {
            Mutation::ForgetWrite if !read && self.dice.percent(OFTEN) => Some((joined("dryRun=All"), body.clone())),
            Mutation::LoseUpdate if *method == Method::PUT => {
                let mut body = body.clone();
                body.pointer_mut("/metadata")?
                    .as_object_mut()?
                    .remove("resourceVersion")?;
                Some((path.into(), body))
            }
            Mutation::LeakSelector if read && path.contains("watch=1") => {
                let parts: Vec<_> = path
                    .split('&')
                    .filter(|part| !part.starts_with("labelSelector="))
                    .collect();
                Some((parts.join("&"), Value::Null))
            }
            Mutation::ExactAsNewer if read => Some((path.replace("=Exact", "=NotOlderThan"), Value::Null)),
            _ => None,
        }
    }

    /// Another answer to show instead.
    pub fn reply(&mut self, method: &Method, path: &str, mut reply: Reply) -> Reply {
        let read = *method == Method::GET;
        let list = reply.body.pointer("/items").is_some();
        match self.mutation {
            Mutation::DenyWrite if !read && reply.is_good() && self.dice.percent(OFTEN) => Reply {
                code: 409,
                body: json!({"kind": "Status", "code": 409, "reason": "Conflict"}),
            },
            Mutation::StaleGet | Mutation::StaleList if read && list == (self.mutation == Mutation::StaleList) => {
                if reply.is_good() && !path.contains("resourceVersion") {
                    let old = self.before.entry(path.into()).or_insert_with(|| reply.clone()).clone();
                    if self.dice.percent(OFTEN) { old } else { reply }
                } else {
                    reply
                }
            }
            Mutation::HoleInList if list && self.dice.percent(OFTEN) => {
                if let Some(items) = reply.body.pointer_mut("/items").and_then(Value::as_array_mut) {
                    items.pop();
                }
                reply
            }
            Mutation::ListAhead if list && self.dice.percent(OFTEN) => {
                if let Some(rv) = reply.body.pointer_mut("/metadata/resourceVersion") {
                    let ahead = rv.as_str().and_then(|rv| rv.parse::<i64>().ok()).unwrap_or_default() + 40;
                    *rv = ahead.to_string().into();
                }
                reply
            }
            _ => reply,
        }
    }

    /// Other events to show instead.
    pub fn events(&mut self, mut events: Vec<Value>) -> Vec<Value> {
        let kind = |event: &Value| {
            event
                .pointer("/type")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let changes: Vec<usize> = (0..events.len())
            .filter(|i| matches!(kind(&events[*i]).as_str(), "ADDED" | "MODIFIED" | "DELETED"))
            .collect();
        if let Some(held) = self.held.take() {
            let after = changes.first().map_or(0, |first| first + 1);
            events.insert(after, held);
            return events;
        }
        let Some(at) = changes.last().copied().filter(|_| self.dice.percent(OFTEN)) else {
            return events;
        };
        match self.mutation {
            Mutation::DropEvent => {
                events.remove(at);
            }
            Mutation::RepeatEvent => events.insert(at, events[at].clone()),
            Mutation::SwapEvents => self.held = Some(events.remove(at)),
            Mutation::BookmarkAhead => {
                let mut bookmark = json!({"type": "BOOKMARK", "object": {"metadata": {}}});
                bookmark["object"]["metadata"]["resourceVersion"] =
                    events[at]["object"]["metadata"]["resourceVersion"].clone();
                events.insert(at, bookmark);
            }
            Mutation::DeletedAsBefore => {
                for event in events.iter_mut().filter(|event| kind(event) == "DELETED") {
                    let rv = event["object"]["metadata"]["resourceVersion"]
                        .as_str()
                        .unwrap_or_default();
                    let before = rv.parse::<i64>().unwrap_or_default() - 1;
                    event["object"]["metadata"]["resourceVersion"] = before.to_string().into();
                }
            }
            Mutation::HoleInInitial => {
                let ends = events.iter().any(|event| {
                    event
                        .pointer("/object/metadata/annotations/k8s.io~1initial-events-end")
                        .is_some()
                });
                if ends || events.len() > 5 {
                    events.remove(at.min(changes[0]));
                }
            }
            _ => {}
        }
        events
    }
}
