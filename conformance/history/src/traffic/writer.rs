//! A client that writes: creates, updates, patches, deletes, with and without preconditions, often on old knowledge.
//!
//! Every write carries a name of its own (`data.op`) and, where it is a compare-and-set, the version it replaces
//! (`data.prev`), so that the history of an object tells by itself whether something is missing from it.

use std::collections::HashMap;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::session::{CHURNED, COLOURS, COUNTERS, NAMESPACES, Session, collection_path, object_path};
use crate::record::{Answer, At, Request, Rv};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

/// What a writer believes of an object.
#[derive(Clone, Debug, Default)]
struct Known {
    rv: Rv,
    uid: String,
    n: i64,
}

/// The writer's beliefs, by key. Bounded by the number of keys.
pub struct Writer {
    pub session: Session,
    known: HashMap<String, Known>,
}

/// The object as the run writes it.
#[must_use]
pub fn object(key: &str, op: &str, prev: Rv, n: i64, colour: &str) -> Value {
    let (ns, name) = key.split_once('/').unwrap_or(("", key));
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": ns, "name": name, "labels": {"colour": colour}},
        "data": {"op": op, "prev": prev.to_string(), "n": n.to_string()},
    })
}

impl Writer {
    #[must_use]
    pub fn new(session: Session) -> Self {
        Self {
            session,
            known: HashMap::new(),
        }
    }

    /// Creates the counters, before anybody else writes.
    pub async fn prepare(&mut self) -> anyhow::Result<()> {
        for ns in NAMESPACES {
            for number in 0..COUNTERS {
                let key = format!("{ns}/c{number}");
                if !matches!(self.create(&key).await, Answer::Wrote { .. }) {
                    anyhow::bail!("cannot create {key}");
                }
            }
        }
        Ok(())
    }

    /// Writes until it shall stop, one call each `pace`.
    pub async fn run(mut self, pace: Duration) {
        let mut tick = tokio::time::interval(pace);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.session.shared.is_stopped() {
            tick.tick().await;
            self.step().await;
        }
    }

    async fn step(&mut self) {
        let ns = *self.session.dice.one(&NAMESPACES);
        if self.session.dice.percent(25) {
            let number = self.session.dice.below(COUNTERS);
            return self.count(&format!("{ns}/c{number}")).await;
        }
        let key = format!("{ns}/k{}", self.session.dice.below(CHURNED));
        if self.session.dice.percent(15) || (!self.known.contains_key(&key) && self.session.dice.percent(50)) {
            self.look(&key).await;
        }
        let Some(known) = self.known.get(&key).cloned() else {
            let _ = self.create(&key).await;
            return;
        };
        match self.session.dice.below(100) {
            0..45 => self.update(&key, &known, known.rv).await,
            45..52 => self.update(&key, &known, 0).await,
            52..65 => self.patch(&key, 0).await,
            65..75 => self.patch(&key, known.rv).await,
            75..82 => self.json_patch(&key, &known).await,
            82..94 => self.delete(&key, &known).await,
            // Creating what is there.
            _ => drop(self.create(&key).await),
        }
    }

    async fn count(&mut self, key: &str) {
        // One in three on old knowledge: it must be refused if anybody else was faster.
        if !self.known.contains_key(key) || self.session.dice.percent(66) {
            self.look(key).await;
        }
        let Some(known) = self.known.get(key).cloned() else {
            return;
        };
        if self.session.dice.percent(70) {
            self.update(key, &known, known.rv).await;
        } else {
            self.json_patch(key, &known).await;
        }
    }

    async fn look(&mut self, key: &str) {
        let (answer, body) = self.session.get(key, At::Latest).await;
        self.learn(key, &answer, body.as_ref());
    }

    /// Believes what an answer shows; forgets what was refused.
    fn learn(&mut self, key: &str, answer: &Answer, body: Option<&Value>) {
        match (answer, body) {
            (Answer::Wrote { rv, .. } | Answer::Found { rv, .. }, Some(body)) => {
                let text = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default();
                let known = Known {
                    rv: *rv,
                    uid: text("/metadata/uid").into(),
                    n: text("/data/n").parse().unwrap_or_default(),
                };
                self.known.insert(key.into(), known);
            }
            (Answer::Deleted { .. } | Answer::Missing | Answer::Refused { .. }, _) => {
                self.known.remove(key);
            }
            // What an unknown write did will show; until then the old belief makes a good stale write.
            _ => {}
        }
    }

    fn colour(&mut self) -> &'static str {
        *self.session.dice.one(&COLOURS)
    }

    /// Creates an object.
    pub async fn create(&mut self, key: &str) -> Answer {
        let op = self.session.next_op();
        let colour = self.colour();
        let body = object(key, &op, 0, 0, colour);
        let path = collection_path(key.split_once('/').map_or("", |(ns, _)| ns));
        let request = Request::Create { key: key.into(), op };
        let (answer, body) = self.session.call(request, Method::POST, &path, JSON, &body).await;
        self.learn(key, &answer, body.as_ref());
        answer
    }

    async fn update(&mut self, key: &str, known: &Known, base: Rv) {
        let op = self.session.next_op();
        let colour = self.colour();
        let mut body = object(key, &op, base, known.n + 1, colour);
        if base > 0 {
            body["metadata"]["resourceVersion"] = base.to_string().into();
        }
        let request = Request::Update {
            key: key.into(),
            op,
            base,
        };
        let (answer, body) = self
            .session
            .call(request, Method::PUT, &object_path(key), JSON, &body)
            .await;
        self.learn(key, &answer, body.as_ref());
    }

    async fn patch(&mut self, key: &str, base: Rv) {
        let op = self.session.next_op();
        let colour = self.colour();
        let mut body =
            json!({"metadata": {"labels": {"colour": colour}}, "data": {"op": op, "prev": base.to_string()}});
        if base > 0 {
            body["metadata"]["resourceVersion"] = base.to_string().into();
        }
        let request = Request::Patch {
            key: key.into(),
            op,
            base,
        };
        let (answer, body) = self
            .session
            .call(request, Method::PATCH, &object_path(key), MERGE, &body)
            .await;
        self.learn(key, &answer, body.as_ref());
    }

    async fn json_patch(&mut self, key: &str, known: &Known) {
        let op = self.session.next_op();
        let body = json!([
            {"op": "test", "path": "/data/n", "value": known.n.to_string()},
            {"op": "replace", "path": "/data/n", "value": (known.n + 1).to_string()},
            {"op": "replace", "path": "/data/op", "value": op},
            {"op": "replace", "path": "/data/prev", "value": "0"},
        ]);
        let request = Request::Count {
            key: key.into(),
            op,
            n: known.n,
        };
        let (answer, body) = self
            .session
            .call(request, Method::PATCH, &object_path(key), JSON_PATCH, &body)
            .await;
        self.learn(key, &answer, body.as_ref());
    }

    async fn delete(&mut self, key: &str, known: &Known) {
        let (base, uid) = match self.session.dice.below(3) {
            0 => (known.rv, String::new()),
            1 => (0, known.uid.clone()),
            _ => (0, String::new()),
        };
        let mut preconditions = json!({});
        if base > 0 {
            preconditions["resourceVersion"] = base.to_string().into();
        }
        if !uid.is_empty() {
            preconditions["uid"] = uid.clone().into();
        }
        let body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions});
        let request = Request::Delete {
            key: key.into(),
            base,
            uid,
        };
        let (answer, _) = self
            .session
            .call(request, Method::DELETE, &object_path(key), JSON, &body)
            .await;
        self.learn(key, &answer, None);
    }

    /// The write that ends the run: an object that every watch of the run covers. Its revision, when acknowledged.
    pub async fn close(&mut self) -> Option<Rv> {
        let key = super::LAST_KEY;
        self.look(key).await;
        let op = self.session.next_op();
        let answer = if let Some(known) = self.known.get(key).cloned() {
            let body = object(key, &op, known.rv, known.n + 1, super::LAST_COLOUR);
            let mut versioned = body;
            versioned["metadata"]["resourceVersion"] = known.rv.to_string().into();
            let request = Request::Update {
                key: key.into(),
                op,
                base: known.rv,
            };
            self.session
                .call(request, Method::PUT, &object_path(key), JSON, &versioned)
                .await
                .0
        } else {
            let body = object(key, &op, 0, 0, super::LAST_COLOUR);
            let request = Request::Create { key: key.into(), op };
            self.session
                .call(request, Method::POST, &collection_path(NAMESPACES[0]), JSON, &body)
                .await
                .0
        };
        match answer {
            Answer::Wrote { rv, .. } => Some(rv),
            _ => {
                self.session.hop();
                None
            }
        }
    }
}
