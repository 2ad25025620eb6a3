//! NodeAffinity: `nodeSelector` and required node affinity filter, preferred node affinity scores.

use std::collections::BTreeMap;

use steersman_types::Typed;
use steersman_types::api::core::v1::{NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm};

use super::{Normalize, Plugin, Score, Scorer, Verdict};
use crate::cycle::Cycle;
use crate::event::ClusterEvent;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

pub const PLUGIN: Plugin = Plugin {
    name: "NodeAffinity",
    filter: Some(filter),
    score: Some(Score {
        weight: 2,
        of: Scorer::Each(score, Normalize::ByHighest),
    }),
    wakes_on: |event, _| matches!(event, ClusterEvent::NodeAdded | ClusterEvent::NodeLabels),
};

fn affinity(pod: &PodInfo) -> Option<&NodeAffinity> {
    pod.pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()
}

fn labels(node: &NodeInfo) -> Option<&BTreeMap<String, String>> {
    node.node.as_ref().and_then(|n| n.metadata().labels.as_ref())
}

fn filter(pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> Verdict {
    if !admitted(cycle.arguments.added_affinity.as_ref(), node) {
        return Verdict::no("node(s) didn't match scheduler-enforced node affinity", false);
    }
    Verdict::unless(
        required(pod, node),
        "node(s) didn't match Pod's node affinity/selector",
        false,
    )
}

/// Whether the node is one that the pod admits.
#[must_use]
pub fn required(pod: &PodInfo, node: &NodeInfo) -> bool {
    let selector = pod.pod.spec.as_ref().and_then(|s| s.node_selector.as_ref());
    let labels = labels(node);
    let selected = selector
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value));
    selected && admitted(affinity(pod), node)
}

/// Whether the node is one that the affinity requires, if it requires any.
fn admitted(affinity: Option<&NodeAffinity>, node: &NodeInfo) -> bool {
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    // No term at all matches nothing.
    required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches(term, node)))
}

fn score(pod: &PodInfo, node: &NodeInfo, cycle: &Cycle<'_>) -> i64 {
    let all = affinity(pod).into_iter().chain(&cycle.arguments.added_affinity);
    let matching = all
        .filter_map(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .flatten()
        .filter(|p| p.weight != 0 && matches(&p.preference, node));
    matching.map(|p| i64::from(p.weight)).sum()
}

/// All requirements of a term must hold; a term without any matches nothing.
fn matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| labels(node).and_then(|l| l.get(key)).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then_some(node.name.as_str());
    expressions.iter().all(|r| holds(r, label(&r.key))) && fields.iter().all(|r| holds(r, field(&r.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |v: &str| values.iter().any(|x| x == v);
    let compare = |f: fn(i64, i64) -> bool| match (value.and_then(|v| v.parse().ok()), values) {
        (Some(a), [b]) => b.parse().is_ok_and(|b| f(a, b)),
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|a, b| a > b),
        "Lt" => compare(|a, b| a < b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requirements_hold_as_upstream_reads_them() {
        for (operator, values, value, expected) in [
            ("In", vec!["a", "b"], Some("a"), true),
            ("In", vec!["a"], None, false),
            ("NotIn", vec!["a"], None, true),
            ("NotIn", vec!["a"], Some("a"), false),
            ("Exists", vec![], Some(""), true),
            ("DoesNotExist", vec![], None, true),
            ("Gt", vec!["3"], Some("4"), true),
            ("Gt", vec!["3"], Some("x"), false),
            ("Lt", vec!["3"], Some("3"), false),
            ("Near", vec![], Some("a"), false),
        ] {
            let r: NodeSelectorRequirement =
                serde_json::from_value(json!({"key": "k", "operator": operator, "values": values})).unwrap();
            assert_eq!(holds(&r, value), expected, "{operator} {values:?} on {value:?}");
        }
    }
}
