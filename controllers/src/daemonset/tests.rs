//! Sets on nodes that come, go and are tainted, with pods that become ready, fail and go in arbitrary order.

use super::decide::*;
use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use steersman_types::Typed;

use crate::pods;

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

fn set(strategy: &Value) -> DaemonSet {
    let value = json!({
        "metadata": {"name": "d", "namespace": "ns", "uid": "set", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [], "nodeSelector": {"daemon": "yes"}}}},
    });
    DaemonSet::from_value(&value).unwrap()
}

fn node(i: usize, labelled: bool, taint: Option<&str>) -> Arc<Node> {
    let mut value = json!({"metadata": {"name": format!("n{i}"), "labels": {}}, "spec": {}});
    if labelled {
        value["metadata"]["labels"]["daemon"] = "yes".into();
    }
    if let Some(effect) = taint {
        value["spec"]["taints"] = json!([{"key": "t", "effect": effect}]);
    }
    Arc::new(Node::from_value(&value).unwrap())
}

struct World {
    seen: Observed,
    made: usize,
}

impl World {
    fn of(strategy: &Value, nodes: Vec<Arc<Node>>) -> Self {
        let seen = Observed {
            set: Arc::new(set(strategy)),
            pods: Vec::new(),
            nodes,
            backoff: BTreeMap::new(),
            now: now(),
        };
        Self { seen, made: 0 }
    }

    fn run(&mut self, plan: &Plan, hash: &str) {
        for node in &plan.create {
            self.made += 1;
            let mut pod = place::pod(&self.seen.set, node, hash);
            pod.metadata.name = Some(format!("p{}", self.made));
            let phase = json!({"status": {"phase": "Pending"}});
            pod.status = Pod::from_value(&phase).unwrap().status;
            self.seen.pods.push(Arc::new(pod));
        }
        for gone in &plan.delete {
            for pod in &mut self.seen.pods {
                if pod.metadata.name == gone.metadata.name {
                    Arc::make_mut(pod).metadata.deletion_timestamp = Some(steersman_types::Time(now()));
                }
            }
        }
    }

    fn happen(&mut self, pick: usize, fails: bool) {
        if self.seen.pods.is_empty() {
            return;
        }
        let i = pick % self.seen.pods.len();
        if self.seen.pods[i].metadata.deletion_timestamp.is_some() {
            self.seen.pods.remove(i);
            return;
        }
        let pod = Arc::make_mut(&mut self.seen.pods[i]);
        let node = place::target(pod).unwrap().to_owned();
        pod.spec.as_mut().unwrap().node_name = Some(node);
        let status = if fails {
            json!({"phase": "Failed"})
        } else {
            json!({"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
        };
        pod.status = Pod::from_value(&json!({ "status": status })).unwrap().status;
    }

    fn settle(&mut self, hash: &str) {
        for _ in 0..20 {
            let plan = decide(&self.seen, hash);
            self.run(&plan, hash);
            for i in (0..self.seen.pods.len()).rev() {
                self.happen(i, false);
            }
        }
    }

    fn living(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.seen.pods.iter().filter(|pod| !pods::is_terminating(pod))
    }

    fn available(&self) -> usize {
        let ready = |pod: &&Arc<Pod>| pods::is_ready(pod);
        let nodes: std::collections::BTreeSet<_> =
            self.living().filter(ready).filter_map(|p| place::target(p)).collect();
        nodes.len()
    }
}

fn rolling(unavailable: usize, surge: usize) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}})
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_node_that_wants_a_pod_gets_one_and_the_others_none(
        nodes in proptest::collection::vec((any::<bool>(), 0u8..4), 0..6),
        events in proptest::collection::vec((any::<usize>(), prop::bool::weighted(0.2)), 0..30),
    ) {
        let taint = |kind: u8| [None, Some("NoSchedule"), Some("NoExecute"), Some("PreferNoSchedule")][usize::from(kind)];
        let nodes: Vec<_> = nodes.iter().enumerate().map(|(i, (labelled, kind))| (node(i, *labelled, taint(*kind)), *labelled, *kind)).collect();
        let mut world = World::of(&rolling(1, 0), nodes.iter().map(|n| n.0.clone()).collect());
        for (pick, fails) in events {
            let plan = decide(&world.seen, "h");
            world.run(&plan, "h");
            let mut places: Vec<_> = world.living().filter_map(|p| place::target(p)).collect();
            let count = places.len();
            places.sort_unstable();
            places.dedup();
            prop_assert_eq!(places.len(), count, "two pods on a node");
            world.happen(pick, fails);
        }
        world.settle("h");
        for (node, labelled, kind) in &nodes {
            let name = node.metadata.name.as_deref();
            let there = world.living().filter(|p| place::target(p) == name).count();
            prop_assert_eq!(there, usize::from(*labelled && matches!(kind, 0 | 3)));
        }
        let plan = decide(&world.seen, "h");
        prop_assert!(plan.create.is_empty() && plan.delete.is_empty());
    }

    #[test]
    fn an_update_without_surge_never_has_more_missing_than_allowed(
        count in 1usize..6, unavailable in 1usize..4, picks in proptest::collection::vec(any::<usize>(), 40),
    ) {
        let mut world = World::of(&rolling(unavailable, 0), (0..count).map(|i| node(i, true, None)).collect());
        world.settle("old");
        prop_assert_eq!(world.available(), count);
        for pick in picks {
            let plan = decide(&world.seen, "new");
            world.run(&plan, "new");
            prop_assert!(world.available() + unavailable >= count);
            world.happen(pick, false);
        }
        world.settle("new");
        prop_assert!(world.seen.pods.iter().all(|p| place::is_updated(&world.seen.set, p, "new")));
        prop_assert_eq!(world.seen.pods.len(), count);
    }

    #[test]
    fn an_update_with_surge_keeps_every_node_served(
        count in 1usize..6, surge in 1usize..4, picks in proptest::collection::vec(any::<usize>(), 40),
    ) {
        let mut world = World::of(&rolling(0, surge), (0..count).map(|i| node(i, true, None)).collect());
        world.settle("old");
        for pick in picks {
            let plan = decide(&world.seen, "new");
            world.run(&plan, "new");
            prop_assert_eq!(world.available(), count);
            prop_assert!(world.living().count() <= count + surge);
            world.happen(pick, false);
        }
        world.settle("new");
        prop_assert!(world.seen.pods.iter().all(|p| place::is_updated(&world.seen.set, p, "new")));
        prop_assert_eq!(world.seen.pods.len(), count);
    }
}

#[test]
fn a_failed_pod_is_replaced_only_when_its_pause_is_over() {
    let mut world = World::of(&rolling(1, 0), vec![node(0, true, None)]);
    world.settle("h");
    world.happen(0, true);
    world.seen.backoff.insert("n0".into(), Duration::from_secs(3));
    let plan = decide(&world.seen, "h");
    assert!(plan.delete.is_empty());
    assert_eq!(plan.again, Some(Duration::from_secs(3)));
    world.seen.backoff.clear();
    let plan = decide(&world.seen, "h");
    assert!(plan.ended[0].failed && plan.delete.len() == 1);
}

#[test]
fn a_pod_tolerates_what_daemons_endure_and_names_its_node() {
    let pod = place::pod(&set(&rolling(1, 0)), "n7", "abc").to_value();
    let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
    assert_eq!(tolerations.len(), 6);
    assert_eq!(
        tolerations[0],
        json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"})
    );
    let terms =
        &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    assert_eq!(
        *terms,
        json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n7"]}]}])
    );
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"app": "d", "controller-revision-hash": "abc"})
    );
}

#[test]
fn status_counts_each_node_s_oldest_pod() {
    let nodes = vec![node(0, true, None), node(1, true, None), node(2, false, None)];
    let mut world = World::of(&rolling(1, 0), nodes);
    let plan = decide(&world.seen, "h");
    world.run(&plan, "h");
    world.happen(0, false);
    let status = status(&world.seen, "h").unwrap();
    assert_eq!(
        (
            status.desired_number_scheduled,
            status.current_number_scheduled,
            status.number_ready
        ),
        (2, 2, 1)
    );
    assert_eq!(
        (status.updated_number_scheduled, status.number_unavailable),
        (Some(2), Some(1))
    );
    world.seen.set = Arc::new(DaemonSet {
        status: Some(status),
        ..world.seen.set.as_ref().clone()
    });
    assert!(decide::status(&world.seen, "h").is_none());
}

#[test]
fn history_keeps_what_pods_use_and_the_limit() {
    let mut set = set(&rolling(1, 0));
    set.spec.as_mut().unwrap().revision_history_limit = Some(1);
    let template = |n: usize| {
        let json = json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": format!("i{n}")}]}});
        crate::templates::from_value(&json).unwrap()
    };
    let revisions: Vec<_> = (1..5)
        .map(|n| {
            Arc::new(history::new(
                &set,
                &template(n),
                n as i64,
                place::HASH,
                &format!("h{n}"),
            ))
        })
        .collect();
    set.spec.as_mut().unwrap().template = template(4);
    let past = past::sort(&set, revisions);
    assert_eq!(past.current.as_ref().map(|r| r.revision), Some(4));
    assert_eq!((past.number, past.old.len()), (4, 3));
    let pod = Arc::new(place::pod(&set, "n", "h1"));
    let gone: Vec<_> = past::surplus(&set, &past.old, &[pod])
        .iter()
        .map(|r| r.revision)
        .collect();
    assert_eq!(gone, [2, 3]);
    let gone: Vec<_> = past::surplus(&set, &past.old, &[]).iter().map(|r| r.revision).collect();
    assert_eq!(gone, [1, 2]);
}
