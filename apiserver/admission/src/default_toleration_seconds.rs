//! DefaultTolerationSeconds: a pod that says nothing about it stays five minutes on a node that is not ready or unreachable.

use std::sync::Arc;

use serde_json::{Value, json};
use steersman_auth::lister::{items, text};
use steersman_schema::status::Status;

use crate::edit::list_mut;
use crate::{Operation, Plugin, Request, Surroundings};

struct DefaultTolerationSeconds {
    /// Taint and seconds.
    wanted: [(&'static str, i64); 2],
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(DefaultTolerationSeconds {
        wanted: [
            ("node.kubernetes.io/not-ready", around.not_ready_seconds),
            ("node.kubernetes.io/unreachable", around.unreachable_seconds),
        ],
    })
}

/// Whether a toleration already covers the `NoExecute` taint: no key means every key, no effect every effect.
fn tolerates(toleration: &Value, taint: &str) -> bool {
    let (key, effect) = (text(toleration, "/key"), text(toleration, "/effect"));
    (key.is_empty() || key == taint) && (effect.is_empty() || effect == "NoExecute")
}

#[async_trait::async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request) -> Result<(), Box<Status>> {
        if !request.is("", "pods") || !request.subresource.is_empty() {
            return Ok(());
        }
        let Some(pod) = request.object.as_mut() else {
            return Ok(());
        };
        for (taint, seconds) in self.wanted {
            if items(pod, "/spec/tolerations").iter().any(|t| tolerates(t, taint)) {
                continue;
            }
            if let Some(tolerations) = list_mut(pod, "spec", "tolerations") {
                tolerations.push(json!({
                    "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
                }));
            }
        }
        Ok(())
    }
}
