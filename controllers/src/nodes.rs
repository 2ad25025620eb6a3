//! Which nodes a pod may go to, as far as taints, the node selector and required node affinity say. Pure.
//!
//! Users: the DaemonSet controller, which decides about nodes before the scheduler sees a pod. Resources, ports and the
//! like are the scheduler's business.

use steersman_types::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint};

use crate::taint_eviction::tolerates;

/// Whether one of the node's taints with an effect in `effects` is not tolerated.
#[must_use]
pub fn repelled(node: &Node, spec: &PodSpec, effects: &[&str]) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let covered = |taint: &Taint| spec.tolerations.iter().flatten().any(|t| tolerates(t, taint));
    taints
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .any(|taint| !covered(taint))
}

/// Whether the pod's node selector and its required node affinity accept the node.
#[must_use]
pub fn attracted(node: &Node, spec: &PodSpec) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| label(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| accepts(term, node)))
}

/// All requirements of a term hold; an empty term accepts nothing.
fn accepts(term: &NodeSelectorTerm, node: &Node) -> bool {
    let label = |key: &str| {
        node.metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(key).cloned())
    };
    let field = |key: &str| (key == "metadata.name").then(|| node.metadata.name.clone().unwrap_or_default());
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| holds(r, label(&r.key).as_deref()))
        && fields.iter().all(|r| holds(r, field(&r.key).as_deref()))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|v| v == value);
    let compared = |test: fn(i64, i64) -> bool| {
        let bound = values.first().and_then(|v| v.parse().ok());
        let number = value.and_then(|v| v.parse().ok());
        bound.zip(number).is_some_and(|(bound, number)| test(number, bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|number, bound| number > bound),
        "Lt" => compared(|number, bound| number < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use steersman_types::Typed;
    use steersman_types::api::core::v1::Pod;

    fn node() -> Node {
        let value = json!({"metadata": {"name": "n", "labels": {"disk": "ssd", "cores": "8"}},
            "spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
        Node::from_value(&value).unwrap()
    }

    fn spec(mut spec: Value) -> PodSpec {
        spec["containers"] = json!([]);
        Pod::from_value(&json!({ "spec": spec })).unwrap().spec.unwrap()
    }

    fn affinity(terms: Value) -> PodSpec {
        spec(json!({"affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}))
    }

    #[test]
    fn one_matching_term_is_enough_and_an_empty_term_matches_nothing() {
        let ssd = json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]});
        let many = json!({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["8"]}]});
        let named = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]});
        assert!(attracted(&node(), &affinity(json!([many, ssd]))));
        assert!(attracted(&node(), &affinity(json!([named]))));
        assert!(!attracted(&node(), &affinity(json!([many]))));
        assert!(!attracted(&node(), &affinity(json!([{}]))));
        assert!(attracted(&node(), &spec(json!({"nodeSelector": {"disk": "ssd"}}))));
        assert!(!attracted(&node(), &spec(json!({"nodeSelector": {"disk": "hdd"}}))));
    }

    #[test]
    fn a_taint_repels_who_does_not_tolerate_it_and_only_with_its_effect() {
        let bare = spec(json!({}));
        assert!(repelled(&node(), &bare, &["NoSchedule", "NoExecute"]));
        assert!(!repelled(&node(), &bare, &["NoExecute"]));
        let tolerant = spec(json!({"tolerations": [{"key": "gpu", "operator": "Exists"}]}));
        assert!(!repelled(&node(), &tolerant, &["NoSchedule", "NoExecute"]));
    }
}
