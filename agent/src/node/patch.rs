//! The change from the node's status in the API to the one that the agent sees. Pure.
//!
//! A strategic merge patch. Only fields of the agent are compared: what others write (volumes, further conditions,
//! capacities) stays as it is.

use serde_json::{Map, Value, json};
use steersman_schema::quantity::Quantity;
use steersman_types::Typed;
use steersman_types::api::core::v1::{Node, NodeStatus};

/// A difference between two statuses.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What to send as `status`.
    pub patch: Value,
    /// More than heartbeats: cannot wait.
    pub matters: bool,
}

fn fields(status: &NodeStatus) -> Map<String, Value> {
    let node = Node {
        status: Some(status.clone()),
        ..Node::default()
    };
    match node.to_value()["status"].take() {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// `None` when they say the same.
#[must_use]
pub fn change(old: &NodeStatus, new: &NodeStatus) -> Option<Change> {
    let (old, new) = (fields(old), fields(new));
    let mut patch = Map::new();
    let mut matters = false;
    for (name, value) in new {
        let before = old.get(&name);
        if before == Some(&value) {
            continue;
        }
        let (value, important) = match name.as_str() {
            "conditions" => conditions(before, &value),
            "capacity" | "allocatable" => amounts(before, value),
            // Would merge by type and address.
            "addresses" => {
                let all = value.as_array().into_iter().flatten().cloned();
                let all: Value = std::iter::once(json!({"$patch": "replace"})).chain(all).collect();
                (all, true)
            }
            _ => (value, true),
        };
        matters = matters || important;
        let empty = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        if !empty {
            patch.insert(name, value);
        }
    }
    (!patch.is_empty()).then_some(Change {
        patch: Value::Object(patch),
        matters,
    })
}

/// Those that changed, each whole; and whether one changed in more than its heartbeat.
fn conditions(old: Option<&Value>, new: &Value) -> (Value, bool) {
    let still = |c: &Value| {
        let mut c = c.clone();
        if let Some(c) = c.as_object_mut() {
            c.remove("lastHeartbeatTime");
        }
        c
    };
    let before = |c: &Value| old.and_then(Value::as_array)?.iter().find(|o| o["type"] == c["type"]);
    let all = new.as_array().into_iter().flatten();
    let changed: Vec<Value> = all.filter(|c| before(c) != Some(c)).cloned().collect();
    let matters = changed.iter().any(|c| before(c).map(&still) != Some(still(c)));
    (Value::Array(changed), matters)
}

/// Those whose amount changed, and null for those that are gone.
fn amounts(old: Option<&Value>, new: Value) -> (Value, bool) {
    let same = |a: &Value, b: &Value| {
        let parse = |v: &Value| Quantity::parse(v.as_str().unwrap_or_default());
        matches!((parse(a), parse(b)), (Ok(a), Ok(b)) if a == b)
    };
    let empty = Map::new();
    let old = old.and_then(Value::as_object).unwrap_or(&empty);
    let Value::Object(new) = new else {
        return (Value::Null, false);
    };
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let mut patch: Map<String, Value> = gone.map(|name| (name.clone(), Value::Null)).collect();
    patch.extend(
        new.into_iter()
            .filter(|(name, v)| !old.get(name).is_some_and(|o| same(o, v))),
    );
    let matters = !patch.is_empty();
    (Value::Object(patch), matters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> NodeStatus {
        Node::from_value(&json!({ "status": value })).unwrap().status.unwrap()
    }

    #[test]
    fn only_what_the_agent_says_otherwise_is_sent() {
        let ready = |beat: &str, status: &str| json!({"type": "Ready", "status": status, "lastHeartbeatTime": beat, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let early = "2026-01-01T00:00:00Z";
        let late = "2026-01-01T00:00:10Z";
        let network = json!({"type": "NetworkUnavailable", "status": "False"});
        let old = status(json!({
            "conditions": [network, ready(early, "True")],
            "capacity": {"cpu": "2", "ephemeral-storage": "96636764k", "example.com/dongle": "3"},
            "allocatable": {"cpu": "2", "example.com/gone": "1"},
            "volumesInUse": ["v"],
            "addresses": [{"type": "Hostname", "address": "n"}],
        }));
        let seen = |beat: &str, state: &str, cpu: &str| {
            status(json!({
                "conditions": [ready(beat, state)],
                "capacity": {"cpu": cpu, "ephemeral-storage": "96636764000", "example.com/dongle": "3"},
                "allocatable": {"cpu": "2000m", "example.com/dongle": "3"},
                "addresses": [{"type": "Hostname", "address": "n"}],
            }))
        };
        let first = change(&old, &seen(late, "True", "2")).unwrap();
        let expected = json!({"conditions": [ready(late, "True")],
            "allocatable": {"example.com/gone": null, "example.com/dongle": "3"}});
        assert_eq!((first.patch, first.matters), (expected, true));

        let mut settled = old.clone();
        settled.allocatable = seen(late, "True", "2").allocatable;
        let beat = change(&settled, &seen(late, "True", "2")).unwrap();
        assert_eq!(
            (beat.patch, beat.matters),
            (json!({"conditions": [ready(late, "True")]}), false)
        );
        assert_eq!(change(&settled, &seen(early, "True", "2")), None);
        assert!(change(&settled, &seen(late, "False", "2")).is_some_and(|c| c.matters));
        let more = change(&settled, &seen(early, "True", "4")).unwrap();
        assert_eq!((more.patch, more.matters), (json!({"capacity": {"cpu": "4"}}), true));
    }
}
