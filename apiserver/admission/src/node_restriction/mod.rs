//! NodeRestriction: a node agent writes only its own node, what reports on its own pods, and tokens for them.
//!
//! The node authorizer lets an agent near these objects; here the content decides. Requests of everybody else pass. All
//! rules are checked in the mutating pass (upstream's place), before other plugins fill anything in: a TokenRequest is seen as
//! the agent sent it. One function per resource, in the files below.

mod node;
mod pod;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use serde_json::Value;
use steersman_auth::Authorizer;
use steersman_auth::lister::text;
use steersman_schema::status::Status;

use crate::certificates::{CLIENT_KUBELET_SIGNER, KUBELET_SERVING_SIGNER, csr_subject};
use crate::{Cluster, Operation, Plugin, Request, Surroundings};

struct NodeRestriction {
    cluster: Arc<dyn Cluster>,
    authorizer: Arc<dyn Authorizer>,
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(NodeRestriction {
        cluster: around.cluster.clone(),
        authorizer: around.authorizer.clone(),
    })
}

/// A rule's verdict: `Err` is the refusal.
type Verdict = Result<(), Box<Status>>;

fn refuse(request: &Request, why: impl AsRef<str>) -> Verdict {
    Err(Box::new(request.forbidden(why)))
}

/// As upstream's texts call operations.
fn shown(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

impl NodeRestriction {
    /// An object from the cache; waited for once, because the agent may know of it before this server does.
    async fn find(&self, plural: &str, namespace: Option<&str>, name: &str) -> Result<Arc<Value>, Box<Status>> {
        if let Some(found) = self.cluster.get("", plural, namespace, name) {
            return Ok(found);
        }
        self.cluster.refresh().await?;
        let found = self.cluster.get("", plural, namespace, name);
        found.ok_or_else(|| Box::new(Status::not_found("", plural, name)))
    }

    async fn judge(&self, node: &str, request: &Request) -> Verdict {
        match (
            request.group.as_str(),
            request.resource.as_str(),
            request.subresource.as_str(),
        ) {
            ("", "pods", "") => pod::own(self, node, request).await,
            ("", "pods", "status") => pod::status(node, request),
            ("", "pods", "eviction") => pod::eviction(self, node, request).await,
            ("", "pods", other) => refuse(
                request,
                format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"),
            ),
            ("", "nodes", _) => node::own(node, request),
            ("", "persistentvolumeclaims", "status") => claim_status(node, request),
            ("", "persistentvolumeclaims", _) => refuse(request, "may only update PVC status"),
            ("", "serviceaccounts", "token") if request.operation == Operation::Create => {
                token::request(self, node, request).await
            }
            ("coordination.k8s.io", "leases", _) => lease(node, request),
            ("storage.k8s.io", "csinodes", _) => named_after(node, request, "CSINode"),
            ("resource.k8s.io", "resourceslices", _) => slice(node, request),
            ("certificates.k8s.io", "certificatesigningrequests", _) => signing_request(node, request),
            _ => Ok(()),
        }
    }
}

fn claim_status(node: &str, request: &Request) -> Verdict {
    if request.operation != Operation::Update {
        return refuse(request, format!("unexpected operation {:?}", shown(request.operation)));
    }
    let bare = |claim: Option<&Value>| {
        let mut claim = claim.cloned().unwrap_or_default();
        let mut remove = |part: &str, fields: &[&str]| {
            if let Some(map) = claim.get_mut(part).and_then(Value::as_object_mut) {
                fields.iter().for_each(|field| drop(map.remove(*field)));
            }
        };
        remove("metadata", &["resourceVersion", "managedFields"]);
        remove(
            "status",
            &[
                "capacity",
                "conditions",
                "allocatedResourceStatuses",
                "allocatedResources",
            ],
        );
        claim
    };
    let (old, new) = (bare(request.old.as_deref()), bare(request.object.as_ref()));
    if old == new {
        return Ok(());
    }
    let parts: Vec<&str> = ["metadata", "spec", "status"]
        .into_iter()
        .filter(|part| old.get(part) != new.get(part))
        .collect();
    let what = "is not allowed to update fields other than status.quantity and status.conditions";
    refuse(request, format!("node {node:?} {what}: {}", parts.join(", ")))
}

fn lease(node: &str, request: &Request) -> Verdict {
    if request.namespace != "kube-node-lease" {
        return refuse(
            request,
            "can only access leases in the \"kube-node-lease\" system namespace",
        );
    }
    let name = name_of(request);
    if name != node {
        return refuse(
            request,
            "can only access node lease with the same name as the requesting node",
        );
    }
    Ok(())
}

fn named_after(node: &str, request: &Request, kind: &str) -> Verdict {
    if name_of(request) != node {
        return refuse(
            request,
            format!("can only access {kind} with the same name as the requesting node"),
        );
    }
    Ok(())
}

/// The name in the object on create, when the URL has none.
fn name_of(request: &Request) -> &str {
    if request.operation != Operation::Create {
        return &request.name;
    }
    request
        .object
        .as_ref()
        .map(|o| text(o, "/metadata/name"))
        .unwrap_or_default()
}

fn slice(node: &str, request: &Request) -> Verdict {
    let (object, verb) = match request.operation {
        Operation::Create => (request.object.as_ref(), "create"),
        Operation::Delete => (request.old.as_deref(), "delete"),
        _ => return Ok(()),
    };
    if object.is_none_or(|slice| text(slice, "/spec/nodeName") != node) {
        return refuse(
            request,
            format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"),
        );
    }
    Ok(())
}

fn signing_request(node: &str, request: &Request) -> Verdict {
    let Some(object) = request
        .object
        .as_ref()
        .filter(|_| request.operation == Operation::Create)
    else {
        return Ok(());
    };
    let signer = text(object, "/spec/signerName");
    if signer != KUBELET_SERVING_SIGNER && signer != CLIENT_KUBELET_SIGNER {
        return Ok(());
    }
    match csr_subject(object) {
        Err(why) => refuse(request, format!("unable to parse csr: {why}")),
        Ok(subject) if subject.common_name != format!("system:node:{node}") => refuse(
            request,
            format!("can only create a node CSR with CN=system:node:{node}"),
        ),
        Ok(_) => Ok(()),
    }
}

#[async_trait::async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn admit(&self, request: &mut Request) -> Verdict {
        let user = request.user.clone();
        match user.node() {
            None => Ok(()),
            Some("") => refuse(request, format!("could not determine node from user {:?}", user.name)),
            Some(node) => self.judge(node, request).await,
        }
    }
}
