//! The node authorizer: an agent may read what its pods need, and touch its own objects.
//!
//! It answers only for users `system:node:<name>` in group `system:nodes`, and never denies: it has no opinion, with the
//! reason that the 403 shows. What an agent may write in those objects is the NodeRestriction admission plugin's. The
//! server feeds the graph as a [`Follower`]. Resources that are not divided by node follow the rules of the role
//! `system:node`.

mod graph;
pub mod references;
#[cfg(test)]
mod tests;

use parking_lot::RwLock;
use serde_json::Value;

use self::graph::{Graph, Target};
use self::references::Kind;
use super::{Attributes, Authorizer, Outcome, Reason, Rule, Rules};
use crate::lister::{Follower, text};
use crate::user::User;

/// The node authorizer.
pub struct NodeAuthorizer {
    graph: RwLock<Graph>,
    rules: Vec<Rule>,
}

impl Default for NodeAuthorizer {
    fn default() -> Self {
        Self::new()
    }
}

impl NodeAuthorizer {
    /// With the rules that the bootstrap policy gives to the role `system:node`.
    pub fn new() -> Self {
        let role = crate::bootstrap::policy()
            .into_iter()
            .find(|o| text(o, "/metadata/name") == "system:node" && text(o, "/kind") == "ClusterRole");
        Self {
            graph: RwLock::default(),
            rules: role.map(|r| super::rbac::rules_of(&r)).unwrap_or_default(),
        }
    }

    /// Upstream's verdict: `Ok` allows, `Err` has the reason.
    fn decide(&self, node: &str, what: &Attributes) -> Result<(), String> {
        if !what.resource_request {
            return self.by_rules(what);
        }
        match (what.group.as_str(), what.resource.as_str()) {
            ("", "secrets") => self.read(node, Target::Of(Kind::Secret), what),
            ("", "configmaps") => self.read(node, Target::Of(Kind::ConfigMap), what),
            ("", "persistentvolumeclaims") if what.subresource == "status" => match what.verb.as_str() {
                "update" | "patch" => self.related(node, Target::Of(Kind::Claim), what),
                _ => Err("can only get/update/patch this type".into()),
            },
            ("", "persistentvolumeclaims") => self.get(node, Target::Of(Kind::Claim), what),
            ("", "persistentvolumes") => self.get(node, Target::Volume, what),
            ("resource.k8s.io", "resourceclaims") => self.get(node, Target::Of(Kind::ResourceClaim), what),
            ("storage.k8s.io", "volumeattachments") => self.get(node, Target::Attachment, what),
            ("", "serviceaccounts") => self.service_account(node, what),
            ("coordination.k8s.io", "leases") => lease(node, what),
            ("storage.k8s.io", "csinodes") => csi_node(node, what),
            ("resource.k8s.io", "resourceslices") => self.slice(node, what),
            ("", "nodes") => own_node(node, what),
            ("", "pods") => self.pod(node, what),
            _ => self.by_rules(what),
        }
    }

    fn by_rules(&self, what: &Attributes) -> Result<(), String> {
        if self.rules.iter().any(|rule| rule.allows(what)) {
            Ok(())
        } else {
            Err(String::new())
        }
    }

    fn related(&self, node: &str, target: Target, what: &Attributes) -> Result<(), String> {
        if what.name.is_empty() {
            return Err("No Object name found".into());
        }
        if self.graph.read().may_read(node, target, &what.namespace, &what.name) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }

    fn get(&self, node: &str, target: Target, what: &Attributes) -> Result<(), String> {
        if what.verb != "get" {
            return Err("can only get individual resources of this type".into());
        }
        if !what.subresource.is_empty() {
            return Err("cannot get subresource".into());
        }
        self.related(node, target, what)
    }

    fn read(&self, node: &str, target: Target, what: &Attributes) -> Result<(), String> {
        if !matches!(what.verb.as_str(), "get" | "list" | "watch") {
            return Err("can only read resources of this type".into());
        }
        if !what.subresource.is_empty() {
            return Err("cannot read subresource".into());
        }
        if what.namespace.is_empty() {
            return Err("can only read namespaced object of this type".into());
        }
        self.related(node, target, what)
    }

    fn service_account(&self, node: &str, what: &Attributes) -> Result<(), String> {
        let target = Target::Of(Kind::ServiceAccount);
        if what.verb == "get" && what.subresource.is_empty() {
            return self.read(node, target, what);
        }
        if what.verb != "create" || what.name.is_empty() {
            return Err("can only create tokens for individual service accounts".into());
        }
        if what.subresource != "token" {
            return Err("can only create token subresource of serviceaccount".into());
        }
        self.related(node, target, what)
    }

    fn slice(&self, node: &str, what: &Attributes) -> Result<(), String> {
        if !what.subresource.is_empty() {
            return Err("cannot authorize ResourceSlice subresources".into());
        }
        match what.verb.as_str() {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, Target::Slice, what),
            "watch" | "list" | "deletecollection" if selects(what, "spec.nodeName", node) => Ok(()),
            "watch" | "list" | "deletecollection" => {
                Err("can only list/watch/deletecollection resourceslices with nodeName field selector".into())
            }
            _ => Err(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                      delete, deletecollection"
                    .into(),
            ),
        }
    }

    fn pod(&self, node: &str, what: &Attributes) -> Result<(), String> {
        match (what.subresource.as_str(), what.verb.as_str()) {
            ("", "get") => self.get(node, Target::Pod, what),
            ("", "list" | "watch") if selects(what, "spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") if !what.name.is_empty() => self.related(node, Target::Pod, what),
            ("", "list" | "watch") => Err("can only list/watch pods with spec.nodeName field selector".into()),
            // NodeRestriction limits these to mirror pods, and to pods bound to the node.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }
}

fn selects(what: &Attributes, field: &str, value: &str) -> bool {
    what.field_selector
        .iter()
        .any(|r| r.key == field && r.operator == "In" && r.values == [value])
}

fn lease(node: &str, what: &Attributes) -> Result<(), String> {
    if !matches!(what.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if what.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    if what.verb != "create" && what.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn csi_node(node: &str, what: &Attributes) -> Result<(), String> {
    if !matches!(what.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".into());
    }
    if !what.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".into());
    }
    if what.verb != "create" && what.name != node {
        return Err("can only access CSINode with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_node(node: &str, what: &Attributes) -> Result<(), String> {
    match (what.subresource.as_str(), what.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match what.name.as_str() {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => Err(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, what: &Attributes) -> Outcome {
        let Some(node) = what.user.node() else {
            return Outcome::no_opinion("");
        };
        if node.is_empty() {
            return Outcome::no_opinion(format!("unknown node for user {:?}", what.user.name));
        }
        match self.decide(node, what) {
            Ok(()) => Outcome::allow(Reason::default()),
            Err(why) => Outcome::no_opinion(why),
        }
    }

    fn rules_for(&self, user: &User, _namespace: &str) -> Rules {
        if user.node().is_none() {
            return Rules::default();
        }
        let error = Some("node authorizer does not support user rule resolution".into());
        Rules {
            rules: Vec::new(),
            incomplete: true,
            error,
        }
    }
}

impl Follower for NodeAuthorizer {
    fn follows(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("", "pods"),
            ("", "persistentvolumes"),
            ("storage.k8s.io", "volumeattachments"),
            ("resource.k8s.io", "resourceslices"),
        ]
    }

    fn changed(&self, _group: &str, plural: &str, old: Option<&Value>, new: Option<&Value>) {
        let mut graph = self.graph.write();
        match plural {
            "pods" => graph.pod(old, new),
            "persistentvolumes" => graph.volume(old, new),
            "volumeattachments" => graph.attachment(Target::Attachment, old, new),
            "resourceslices" => graph.attachment(Target::Slice, old, new),
            _ => {}
        }
    }
}
