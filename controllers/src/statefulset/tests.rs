//! Sets that are scaled and updated in a small world where pods become ready, fail and go in arbitrary order.

use super::decide::*;
use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use steersman_types::Typed;

fn now() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

fn set(spec: &Value) -> StatefulSet {
    let mut value = json!({
        "metadata": {"name": "db", "namespace": "ns", "uid": "set", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "svc", "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}}},
        "status": {"replicas": 0},
    });
    for (key, field) in spec.as_object().into_iter().flatten() {
        value["spec"][key] = field.clone();
    }
    StatefulSet::from_value(&value).unwrap()
}

fn version(name: &str) -> Version {
    Version {
        name: name.into(),
        template: crate::templates::from_value(
            &json!({"metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}}),
        )
        .unwrap(),
    }
}

/// What an API server and kubelets would make of the plans.
struct World {
    seen: Observed,
    uids: usize,
}

impl World {
    fn of(set: StatefulSet) -> Self {
        let seen = Observed {
            set: Arc::new(set),
            pods: Vec::new(),
            claims: BTreeMap::new(),
            now: now(),
        };
        Self { seen, uids: 0 }
    }

    fn set(&mut self, change: impl FnOnce(&mut StatefulSet)) {
        let mut set = self.seen.set.as_ref().clone();
        change(&mut set);
        self.seen.set = Arc::new(set);
    }

    fn pod(&mut self, i: usize, change: impl FnOnce(&mut Pod)) {
        let mut pod = self.seen.pods[i].as_ref().clone();
        change(&mut pod);
        self.seen.pods[i] = Arc::new(pod);
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self
            .seen
            .pods
            .iter()
            .filter_map(|p| p.metadata.name.as_deref())
            .collect();
        names.sort_unstable();
        names
    }

    fn run(&mut self, plan: Plan) {
        for step in plan.rounds.into_iter().flatten() {
            match step {
                Step::Create { mut pod, claims } => {
                    assert!(
                        !self.names().contains(&pod.metadata.name.as_deref().unwrap()),
                        "a pod twice"
                    );
                    self.uids += 1;
                    pod.metadata.uid = Some(format!("u{}", self.uids));
                    pod.status.get_or_insert_default().phase = Some("Pending".into());
                    self.seen.pods.push(Arc::new(*pod));
                    for claim in claims {
                        self.seen
                            .claims
                            .insert(claim.metadata.name.clone().unwrap(), Arc::new(claim));
                    }
                }
                Step::Delete { pod } => {
                    let i = self
                        .seen
                        .pods
                        .iter()
                        .position(|p| p.metadata.uid == pod.metadata.uid)
                        .unwrap();
                    self.pod(i, |pod| {
                        pod.metadata.deletion_timestamp = Some(steersman_types::Time(now()))
                    });
                }
                Step::Own { claim, .. } => {
                    self.seen
                        .claims
                        .insert(claim.metadata.name.clone().unwrap(), Arc::new(*claim));
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        self.set(|set| set.status = Some(plan.status));
    }

    /// One thing happens to one pod.
    fn happen(&mut self, pick: usize, what: u8) {
        if self.seen.pods.is_empty() {
            return;
        }
        let i = pick % self.seen.pods.len();
        if self.seen.pods[i].metadata.deletion_timestamp.is_some() {
            self.seen.pods.remove(i);
        } else if what == 0 {
            self.pod(i, |pod| {
                pod.status.get_or_insert_default().phase = Some("Failed".into())
            });
        } else {
            self.ready(i);
        }
    }

    fn ready(&mut self, i: usize) {
        if pods::is_finished(&self.seen.pods[i]) {
            return;
        }
        self.pod(i, |pod| {
            let status = json!({"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
            pod.status = Pod::from_value(&json!({"status": status})).unwrap().status;
        });
    }

    fn unavailable(&self) -> usize {
        let bad = |pod: &&Arc<Pod>| !pods::is_ready(pod) || pods::is_terminating(pod);
        self.seen.pods.iter().filter(bad).count()
    }
}

use crate::pods;

fn deletions(plan: &Plan) -> Vec<String> {
    let steps = plan.rounds.iter().flatten();
    steps
        .filter_map(|s| match s {
            Step::Delete { pod } => pod.metadata.name.clone(),
            _ => None,
        })
        .collect()
}

fn creations(plan: &Plan) -> usize {
    let steps = plan.rounds.iter().flatten();
    steps.filter(|s| matches!(s, Step::Create { .. })).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ordered_pods_are_made_one_by_one_and_removed_from_the_top(
        replicas in 0i32..5, later in 0i32..5, start in 0i32..3, events in proptest::collection::vec((any::<usize>(), 0u8..6), 0..40),
    ) {
        let mut world = World::of(set(&json!({"replicas": replicas, "ordinals": {"start": start}})));
        let one = version("v1");
        for (round, (pick, what)) in events.iter().enumerate() {
            if round == events.len() / 2 {
                world.set(|set| set.spec.as_mut().unwrap().replicas = Some(later));
            }
            let plan = decide(&world.seen, &one, &one);
            prop_assert!(creations(&plan) + deletions(&plan).len() <= 1);
            if creations(&plan) == 1 {
                let made = plan.rounds.iter().flatten().find_map(|s| match s {
                    Step::Create { pod, .. } => member::ordinal(pod), _ => None,
                }).unwrap();
                let before = world.seen.pods.iter().filter(|p| member::ordinal(p).unwrap() < made && member::position(&world.seen.set, member::ordinal(p).unwrap()).is_some());
                prop_assert!(before.clone().all(|p| pods::is_ready(p) && !pods::is_terminating(p)));
            }
            world.run(plan);
            world.happen(*pick, *what);
        }
        for _ in 0..30 {
            let plan = decide(&world.seen, &one, &one);
            world.run(plan);
            for i in (0..world.seen.pods.len()).rev() {
                world.happen(i, 1);
            }
        }
        let wanted = if events.is_empty() { replicas } else { later };
        let names: Vec<String> = (start..start + wanted).map(|i| format!("db-{i}")).collect();
        prop_assert_eq!(world.names(), names.iter().map(String::as_str).collect::<Vec<_>>());
        let plan = decide(&world.seen, &one, &one);
        prop_assert!(plan.rounds.is_empty());
        prop_assert_eq!(plan.status.current_replicas, Some(wanted));
    }

    #[test]
    fn an_update_goes_from_the_top_to_the_partition_and_never_has_more_missing_than_allowed(
        replicas in 1i32..6, partition in 0i32..4, limit in proptest::option::of(1i32..4), parallel: bool,
        picks in proptest::collection::vec(any::<usize>(), 40),
    ) {
        let policy = if parallel { "Parallel" } else { "OrderedReady" };
        let mut rolling = json!({ "partition": partition });
        if let Some(limit) = limit {
            rolling["maxUnavailable"] = limit.into();
        }
        let mut world = World::of(set(&json!({"replicas": replicas, "podManagementPolicy": policy,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}})));
        let (one, two) = (version("v1"), version("v2"));
        for _ in 0..30 {
            let plan = decide(&world.seen, &one, &one);
            world.run(plan);
            for i in 0..world.seen.pods.len() {
                world.ready(i);
            }
        }
        let allowed = usize::try_from(limit.unwrap_or(1)).unwrap();
        for pick in picks {
            let plan = decide(&world.seen, &one, &two);
            prop_assert!(plan.status.current_replicas >= Some(0));
            world.run(plan);
            prop_assert!(world.unavailable() <= allowed);
            world.happen(pick, 1);
        }
        for _ in 0..30 {
            let plan = decide(&world.seen, &one, &two);
            world.run(plan);
            for i in (0..world.seen.pods.len()).rev() {
                world.happen(i, 1);
            }
        }
        for pod in &world.seen.pods {
            let expected = if member::ordinal(pod).unwrap() < i64::from(partition) { "v1" } else { "v2" };
            prop_assert_eq!(member::revision(pod), expected);
        }
        let status = decide(&world.seen, &one, &two).status;
        let current = if partition == 0 { "v2" } else { "v1" };
        prop_assert_eq!(status.current_revision.as_deref(), Some(current));
        prop_assert_eq!(status.updated_replicas, Some((replicas - partition).max(0)));
    }

    #[test]
    fn a_claim_is_owned_as_the_policy_says_and_a_second_look_changes_nothing(
        deleted: bool, scaled: bool, inside: bool, foreign: bool, stale: bool,
    ) {
        let word = |goes: bool| if goes { "Delete" } else { "Retain" };
        let set = set(&json!({"replicas": if inside { 1 } else { 0 },
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": word(deleted), "whenScaled": word(scaled)},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}));
        let pod = Pod::from_value(&json!({"metadata": {"name": "db-0", "namespace": "ns", "uid": "pod"}})).unwrap();
        let mut claim = member::claims(&set, 0).remove(0);
        let owner = |kind: &str, version: &str, name: &str, uid: &str, controller: bool| steersman_types::OwnerReference {
            api_version: version.into(), kind: kind.into(), name: name.into(), uid: uid.into(),
            controller: Some(controller), block_owner_deletion: None,
        };
        let mut owners = Vec::new();
        if foreign {
            owners.push(owner("ConfigMap", "v1", "other", "other", true));
        }
        if stale {
            owners.push(owner("Pod", "v1", "db-0", "an earlier one", true));
        }
        claim.metadata.owner_references = Some(owners.clone());
        match retention::corrected(&set, &pod, &claim) {
            None => {
                let nothing = stale || (foreign && (deleted || scaled)) || (!deleted && (!scaled || inside));
                prop_assert!(nothing, "left alone");
            }
            Some(after) => {
                prop_assert!(!stale && !(foreign && (deleted || scaled)));
                let has = |uid: &str| after.metadata.owner_references.iter().flatten().any(|o| o.uid == uid);
                let leaves = scaled && !inside;
                prop_assert_eq!(has("pod"), leaves);
                prop_assert_eq!(has("set"), deleted && !leaves);
                prop_assert_eq!(has("other"), foreign);
                prop_assert!(retention::corrected(&set, &pod, &after).is_none());
            }
        }
        prop_assert_eq!(retention::blocks_creation(&set, &pod, &claim), stale && scaled);
    }
}

#[test]
fn a_pod_has_its_number_s_name_labels_host_and_claims() {
    let set = set(
        &json!({"volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"x": "y"}}, "spec": {}}],
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [], "volumes": [{"name": "data"}, {"name": "tmp"}]}}}),
    );
    let pod = member::pod(&set, &set.spec.as_ref().unwrap().template, "db-abc", 4).to_value();
    assert_eq!(pod["metadata"]["name"], "db-4");
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"app": "db", "controller-revision-hash": "db-abc", "apps.kubernetes.io/pod-index": "4",
            "statefulset.kubernetes.io/pod-name": "db-4"})
    );
    assert_eq!(
        (&pod["spec"]["hostname"], &pod["spec"]["subdomain"]),
        (&json!("db-4"), &json!("svc"))
    );
    assert_eq!(
        pod["spec"]["volumes"],
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-4"}}, {"name": "tmp"}])
    );
    let claim = member::claims(&set, 4).remove(0);
    assert_eq!(
        claim.metadata.labels,
        Some([("app".into(), "db".into()), ("x".into(), "y".into())].into())
    );
    let pod = Pod::from_value(&pod).unwrap();
    assert!(member::has_identity(&set, &pod) && member::has_storage(&set, &pod));
}

#[test]
fn parallel_sets_make_and_remove_all_pods_at_once() {
    let mut world = World::of(set(&json!({"podManagementPolicy": "Parallel"})));
    let one = version("v1");
    let plan = decide(&world.seen, &one, &one);
    assert_eq!(creations(&plan), 3);
    world.run(plan);
    world.set(|set| set.spec.as_mut().unwrap().replicas = Some(0));
    assert_eq!(deletions(&decide(&world.seen, &one, &one)), ["db-2", "db-1", "db-0"]);
}

#[test]
fn a_huge_set_is_made_in_bursts() {
    let mut world = World::of(set(&json!({"podManagementPolicy": "Parallel", "replicas": i32::MAX})));
    let one = version("v1");
    let plan = decide(&world.seen, &one, &one);
    assert_eq!(creations(&plan), 500);
    world.run(plan);
    assert_eq!(creations(&decide(&world.seen, &one, &one)), 500);
}

#[test]
fn on_delete_replaces_only_what_somebody_else_deleted() {
    let mut world = World::of(set(&json!({"replicas": 1, "updateStrategy": {"type": "OnDelete"}})));
    let (one, two) = (version("v1"), version("v2"));
    let plan = decide(&world.seen, &one, &one);
    world.run(plan);
    world.ready(0);
    assert!(decide(&world.seen, &one, &two).rounds.is_empty());
    world.seen.pods.clear();
    let plan = decide(&world.seen, &one, &two);
    world.run(plan);
    assert_eq!(member::revision(&world.seen.pods[0]), "v2");
}

#[test]
fn a_rollback_gives_an_old_revision_a_new_number() {
    let set = set(&json!({}));
    let template = |image: &str| {
        let json =
            json!({"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
        crate::templates::from_value(&json).unwrap()
    };
    let revision = |image: &str, number| Arc::new(history::new(&set, &template(image), number, history::HASH, image));
    let mut wanted = set.clone();
    wanted.spec.as_mut().unwrap().template = template("a");
    let past = past::sort(&wanted, vec![revision("b", 2), revision("a", 1)]);
    assert!(
        matches!(past.update, Update::Renumber(r) if r.revision == 3 && r.metadata.name.as_deref() == Some("db-a"))
    );
    let past = past::sort(&wanted, vec![revision("a", 3), revision("b", 2)]);
    assert!(matches!(past.update, Update::Is(r) if r.revision == 3));
    wanted.spec.as_mut().unwrap().template = template("c");
    assert_eq!(past::sort(&wanted, past.revisions).update, Update::Create(4));
}
