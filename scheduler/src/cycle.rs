//! What one decision knows beyond a single node: the snapshot, and counts over the whole cluster that filters ask again
//! and again. Preemption changes a copy of it as it tries to take pods away.

use std::collections::HashMap;

use crate::arguments::Arguments;
use crate::plugins::{node_affinity, taint_toleration};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::terms::Term;

/// Topology key and value.
type Domain = (String, String);
/// How many pods that matter are in each part of the cluster.
type Domains = HashMap<Domain, i64>;

/// See the module.
#[derive(Clone, Debug)]
pub struct Cycle<'a> {
    pub snapshot: &'a Snapshot,
    /// What the profile says to its plugins.
    pub arguments: &'a Arguments,
    /// Pods that want the incoming pod away from them.
    pub shunned: Domains,
    /// Pods that the incoming pod wants near; only those that all its terms select.
    pub wanted: Domains,
    /// Pods that the incoming pod wants away.
    pub unwanted: Domains,
    /// By hard spread constraint: pods per value of its topology key.
    pub spread: Vec<HashMap<String, i64>>,
}

impl<'a> Cycle<'a> {
    #[must_use]
    pub fn new(pod: &PodInfo, snapshot: &'a Snapshot, arguments: &'a Arguments) -> Self {
        let mut cycle = Self {
            snapshot,
            arguments,
            shunned: Domains::new(),
            wanted: Domains::new(),
            unwanted: Domains::new(),
            spread: vec![HashMap::new(); pod.spread_hard.len()],
        };
        let own = !pod.terms.required.is_empty() || !pod.terms.required_anti.is_empty();
        // Most pods have no opinion of others, and looking at thousands of nodes for nothing takes its time.
        if !own && snapshot.opinionated == 0 && pod.spread_hard.is_empty() {
            return cycle;
        }
        for node in snapshot.nodes.iter() {
            // Nodes know which of their pods have one.
            if own || node.opinionated > 0 {
                for other in node.pods.values().filter(|p| own || p.terms.any()) {
                    cycle.count_terms(pod, other, node, 1);
                }
            }
            cycle.count_spread_node(pod, node);
        }
        cycle
    }

    /// Accounts for `other` appearing on (`by` 1) or leaving (-1) a node.
    pub fn change(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        self.count_terms(pod, other, node, by);
        for (i, constraint) in pod.spread_hard.iter().enumerate() {
            if constraint.counts(&pod.key.namespace, other)
                && is_counted(pod, node, i)
                && let Some(count) = self.spread.get_mut(i).zip(node.label(&constraint.topology_key))
            {
                let (counts, value) = count;
                *counts.entry(value.to_owned()).or_default() += by;
            }
        }
    }

    fn count_terms(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, by: i64) {
        let namespaces = &self.snapshot.namespaces;
        for term in &other.terms.required_anti {
            if term.selects(pod, namespaces) {
                add(&mut self.shunned, term, node, by);
            }
        }
        let near = &pod.terms.required;
        if !near.is_empty() && near.iter().all(|term| term.selects(other, namespaces)) {
            for term in near {
                add(&mut self.wanted, term, node, by);
            }
        }
        for term in &pod.terms.required_anti {
            if term.selects(other, namespaces) {
                add(&mut self.unwanted, term, node, by);
            }
        }
    }

    fn count_spread_node(&mut self, pod: &PodInfo, node: &NodeInfo) {
        let all_keys = pod.spread_hard.iter().all(|c| node.label(&c.topology_key).is_some());
        if !all_keys {
            return;
        }
        for (i, constraint) in pod.spread_hard.iter().enumerate() {
            if !is_counted(pod, node, i) {
                continue;
            }
            let count = constraint.count(&pod.key.namespace, node.pods.values().map(AsRef::as_ref));
            if let (Some(counts), Some(value)) = (self.spread.get_mut(i), node.label(&constraint.topology_key)) {
                *counts.entry(value.to_owned()).or_default() += count;
            }
        }
    }
}

/// Whether the node counts for the pod's hard constraint `i`.
fn is_counted(pod: &PodInfo, node: &NodeInfo, i: usize) -> bool {
    let keys = pod.spread_hard.iter().all(|c| node.label(&c.topology_key).is_some());
    keys && pod
        .spread_hard
        .get(i)
        .is_some_and(|c| is_included(pod, node, c.honours_affinity, c.honours_taints))
}

/// Whether a constraint's inclusion policies count the node.
#[must_use]
pub fn is_included(pod: &PodInfo, node: &NodeInfo, by_affinity: bool, by_taints: bool) -> bool {
    (!by_affinity || node_affinity::required(pod, node)) && (!by_taints || taint_toleration::admits(pod, node))
}

fn add(domains: &mut Domains, term: &Term, node: &NodeInfo, by: i64) {
    let Some(value) = node.label(&term.topology_key) else {
        return;
    };
    let domain = (term.topology_key.clone(), value.to_owned());
    let count = domains.entry(domain.clone()).or_default();
    *count += by;
    if *count == 0 {
        domains.remove(&domain);
    }
}
