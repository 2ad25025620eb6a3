//! TaintNodesByCondition: a new node takes no pods until the node lifecycle controller has seen it ready.

use std::sync::Arc;

use serde_json::json;
use steersman_auth::lister::{items, text};
use steersman_schema::status::Status;

use crate::edit::list_mut;
use crate::{Operation, Plugin, Request, Surroundings};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

struct TaintNodes;

pub(crate) fn build(_: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(TaintNodes)
}

#[async_trait::async_trait]
impl Plugin for TaintNodes {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request) -> Result<(), Box<Status>> {
        if !request.is("", "nodes") || !request.subresource.is_empty() {
            return Ok(());
        }
        let Some(node) = request.object.as_mut() else {
            return Ok(());
        };
        let has = |t: &serde_json::Value| text(t, "/key") == NOT_READY && text(t, "/effect") == "NoSchedule";
        if !items(node, "/spec/taints").iter().any(has)
            && let Some(taints) = list_mut(node, "spec", "taints")
        {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}
