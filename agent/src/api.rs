//! The agent's writes to the API server.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use steersman_runtime::Client;
use steersman_runtime::client::{ApiError, DeleteOptions, Patch};
use steersman_types::Typed;
use steersman_types::api::core::v1::{Pod, PodStatus};
use steersman_types::api::node::v1::RuntimeClass;

use crate::context::{PodApi, WriteError};
use crate::pod;
use crate::pod::resize::{IN_PROGRESS, PENDING};
use crate::statics::Mirrors;

/// [`PodApi`] over a client.
pub struct ApiWriter {
    client: Client,
    mirrors: Arc<Mirrors>,
}

impl ApiWriter {
    #[must_use]
    pub fn new(client: Client, mirrors: Arc<Mirrors>) -> Self {
        Self { client, mirrors }
    }
}

fn write_error(error: &ApiError) -> WriteError {
    // A conflict can only come from the uid precondition: another pod has the name now.
    if error.is_not_found() || error.is_conflict() {
        WriteError::Gone
    } else {
        WriteError::Failed(error.to_string())
    }
}

#[async_trait]
impl PodApi for ApiWriter {
    async fn write_status(&self, pod: &Pod, old: &PodStatus, new: &PodStatus) -> Result<(), WriteError> {
        // The API knows only the picture of a static pod.
        if pod::is_static(pod) {
            self.mirrors.report(pod, new);
            return Ok(());
        }
        let Some(change) = status_patch(old, new) else {
            return Ok(());
        };
        let body = json!({"metadata": {"uid": pod::uid(pod)}, "status": change});
        let patch = Patch::Strategic(body);
        let result = self
            .client
            .patch::<Pod>(&patch, Some(pod::namespace(pod)), pod::name(pod), Some("status"))
            .await;
        result.map(drop).map_err(|e| write_error(&e))
    }

    async fn delete(&self, pod: &Pod) -> Result<(), WriteError> {
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            ..DeleteOptions::uid(pod::uid(pod))
        };
        let result = self
            .client
            .delete::<Pod>(Some(pod::namespace(pod)), pod::name(pod), &options)
            .await;
        result.map_err(|e| write_error(&e))
    }

    async fn runtime_handler(&self, class: &str) -> Result<String, String> {
        let found = self.client.get::<RuntimeClass>(None, class).await;
        found
            .map(|c| c.handler)
            .map_err(|e| format!("failed to get sandbox runtime: {e}"))
    }
}

/// The strategic merge patch from `old` to `new`, if they differ.
///
/// Fields of the status are replaced whole, except conditions: those merge by type, so conditions of others stay.
#[must_use]
pub fn status_patch(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let status = |s: &PodStatus| match (Pod {
        status: Some(s.clone()),
        ..Pod::default()
    })
    .to_value()["status"]
        .take()
    {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let (old, new) = (status(old), status(new));
    let mut change = Map::new();
    for (name, value) in &new {
        let before = old.get(name);
        if before == Some(value) {
            continue;
        }
        let value = match (name.as_str(), before) {
            ("conditions", before) => conditions(before, value),
            // Lists that would merge by address.
            ("podIPs" | "hostIPs", Some(_)) => {
                let all = value.as_array().into_iter().flatten().cloned();
                std::iter::once(json!({"$patch": "replace"})).chain(all).collect()
            }
            _ => value.clone(),
        };
        change.insert(name.clone(), value);
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        change.insert(name.clone(), Value::Null);
    }
    (!change.is_empty()).then_some(Value::Object(change))
}

/// The changed conditions, with nulls for fields that are no longer there.
fn conditions(old: Option<&Value>, new: &Value) -> Value {
    let before = |kind: &Value| old.and_then(Value::as_array)?.iter().find(|c| c["type"] == *kind);
    let changed = new
        .as_array()
        .into_iter()
        .flatten()
        .filter(|c| before(&c["type"]) != Some(c));
    let with_nulls = changed.map(|c| {
        let mut c = c.clone();
        let keys = before(&c["type"])
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::keys);
        for key in keys {
            if c.get(key).is_none() {
                c[key] = Value::Null;
            }
        }
        c
    });
    // Only conditions that nobody else writes may go: others may have been written meanwhile.
    let gone = old
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|c| &c["type"])
        .filter(|kind| *kind == PENDING || *kind == IN_PROGRESS)
        .filter(|kind| !new.as_array().into_iter().flatten().any(|c| c["type"] == **kind))
        .map(|kind| json!({"type": kind, "$patch": "delete"}));
    with_nulls.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: Value, new: Value) -> Option<Value> {
        let read = |v: Value| Pod::from_value(&json!({ "status": v })).unwrap().status.unwrap();
        status_patch(&read(old), &read(new))
    }

    #[test]
    fn only_differences_are_sent_and_conditions_merge_by_type() {
        assert_eq!(check(json!({"phase": "Running"}), json!({"phase": "Running"})), None);
        let ready = json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"});
        let now = json!({"type": "Ready", "status": "True"});
        let gate = json!({"type": "example.com/gate", "status": "True"});
        let patch = check(
            json!({"phase": "Pending", "message": "x", "conditions": [gate, ready], "podIPs": [{"ip": "1.1.1.1"}]}),
            json!({"phase": "Running", "conditions": [gate, now], "podIPs": [{"ip": "2.2.2.2"}]}),
        );
        let expected = json!({"phase": "Running", "message": null,
            "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}],
            "podIPs": [{"$patch": "replace"}, {"ip": "2.2.2.2"}]});
        assert_eq!(patch, Some(expected));
        let resizing = json!({"type": "PodResizeInProgress", "status": "True"});
        let patch = check(json!({"conditions": [resizing, gate]}), json!({"conditions": []}));
        let expected = json!({"conditions": [{"type": "PodResizeInProgress", "$patch": "delete"}]});
        assert_eq!(patch, Some(expected), "a condition of ours that is over is taken away");
    }
}
