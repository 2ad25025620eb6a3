//! Rollouts on simulated ReplicaSets: safety at every step, and arrival.

use super::decide::*;
use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use steersman_types::Typed;
use steersman_types::api::apps::v1::ReplicaSetStatus;

fn deployment(replicas: i32, surge: &serde_json::Value, unavailable: &serde_json::Value) -> Deployment {
    let value = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v0"}]}}},
    });
    Deployment::from_value(&value).unwrap()
}

/// A cluster of one Deployment: sets hold pods that come, become available, fail and go one by one.
struct World {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    /// Per set: pods that are there, of which so many are available.
    pods: BTreeMap<String, (i32, i32)>,
    now: Timestamp,
    events: Vec<String>,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        let now = Timestamp::from_second(1_000_000).unwrap();
        Self {
            deployment,
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            now,
            events: Vec::new(),
        }
    }

    fn size(&self, name: &str) -> i32 {
        self.sets.get(name).and_then(|s| s.spec.as_ref()?.replicas).unwrap_or(0)
    }

    fn wanted(&self) -> i32 {
        self.sets.keys().map(|n| self.size(n)).sum()
    }

    fn observe(&self) -> Observed {
        let mut seen = Observed::of(Arc::new(self.deployment.clone()));
        seen.now = self.now;
        seen.sets = self.sets.values().map(|s| Arc::new(s.clone())).collect();
        seen.sets_with_pods = self
            .pods
            .iter()
            .filter(|(_, (n, _))| *n > 0)
            .map(|(k, _)| k.clone())
            .collect();
        seen
    }

    /// One run of the controller. Returns whether it wrote anything.
    fn run(&mut self) -> bool {
        let plan = decide(&self.observe());
        let mut wrote = plan.create.is_some();
        if let Some(mut set) = plan.create {
            let name = set.metadata.name.clone().unwrap();
            let size = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
            if size > 0 {
                self.events
                    .push(format!("Scaled up replica set {name} from 0 to {size}"));
            }
            set.metadata.uid = Some(name.clone());
            set.metadata.creation_timestamp = Some(steersman_types::Time(self.now));
            self.pods.insert(name.clone(), (0, 0));
            self.sets.insert(name, set);
        }
        for action in plan.actions {
            match action {
                Action::Update { resource, object, .. } if resource.plural == "replicasets" => {
                    let set = ReplicaSet::from_value(&object).unwrap();
                    self.sets.insert(set.metadata.name.clone().unwrap(), set);
                    wrote = true;
                }
                Action::Update { object, .. } => {
                    self.deployment = Deployment::from_value(&object).unwrap();
                    wrote = true;
                }
                Action::Delete { name, .. } => {
                    self.sets.remove(&name);
                    self.pods.remove(&name);
                    wrote = true;
                }
                Action::Event(note) => self.events.push(note.message),
                other => panic!("{other:?}"),
            }
        }
        wrote
    }

    /// The set's controller: reports, creates, deletes (unavailable pods first).
    fn sync(&mut self, name: &str) {
        let size = self.size(name);
        let (there, available) = self.pods.get_mut(name).unwrap();
        *there = size;
        *available = (*available).min(size);
        let set = self.sets.get_mut(name).unwrap();
        set.status = Some(ReplicaSetStatus {
            replicas: *there,
            ready_replicas: Some(*available),
            available_replicas: Some(*available),
            ..ReplicaSetStatus::default()
        });
    }

    fn settle(&mut self) {
        for _ in 0..500 {
            self.now = self.now.checked_add(jiff::SignedDuration::from_secs(1)).unwrap();
            let wrote = self.run();
            let names: Vec<String> = self.sets.keys().cloned().collect();
            let mut moved = false;
            for name in names {
                let (there, available) = self.pods[&name];
                if available < there {
                    self.pods.insert(name.clone(), (there, there));
                    moved = true;
                }
                self.sync(&name);
                moved |= self.pods[&name].0 != there;
            }
            if !wrote && !moved {
                return;
            }
        }
        panic!("does not come to rest");
    }

    fn image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
        self.deployment.metadata.generation = Some(self.deployment.metadata.generation.unwrap() + 1);
    }

    fn scale(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().unwrap().replicas = Some(replicas);
        self.deployment.metadata.generation = Some(self.deployment.metadata.generation.unwrap() + 1);
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let all = self.deployment.status.as_ref().and_then(|s| s.conditions.as_ref());
        let found = all.into_iter().flatten().find(|c| c.type_ == kind);
        found
            .map(|c| (c.status.clone(), c.reason.clone().unwrap_or_default()))
            .unwrap_or_default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Run,
    Sync(usize),
    Ready(usize),
    Fail(usize),
    Image(u8),
}

fn number_or_percent() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        (0i32..5).prop_map(|n| json!(n)),
        (0i32..101).prop_map(|n| json!(format!("{n}%")))
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Run),
        4 => (0usize..4).prop_map(Step::Sync),
        4 => (0usize..4).prop_map(Step::Ready),
        1 => (0usize..4).prop_map(Step::Fail),
        1 => (0u8..3).prop_map(Step::Image),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn never_above_the_surge_never_takes_a_needed_pod_and_arrives(
        replicas in 0i32..12, surge in number_or_percent(), unavailable in number_or_percent(), steps in steps(),
    ) {
        let mut world = World::new(deployment(replicas, &surge, &unavailable));
        world.settle();
        let most = replicas + rollout::max_surge(&world.deployment);
        let least = replicas - rollout::max_unavailable(&world.deployment);
        for step in steps {
            let names: Vec<String> = world.sets.keys().cloned().collect();
            let pick = |i: usize| names.get(i % names.len().max(1)).cloned();
            match step {
                Step::Run => {
                    let sure = |w: &World| -> i32 {
                        // Pods that stay available whatever the sets' controllers choose to delete.
                        w.sets.keys().map(|n| w.pods[n].1.min(w.size(n))).sum()
                    };
                    let before = sure(&world);
                    world.run();
                    prop_assert!(world.wanted() <= most.max(replicas), "{} of {most}", world.wanted());
                    let after = sure(&world);
                    prop_assert!(after >= least.min(before), "{before} -> {after}, least {least}");
                }
                Step::Sync(i) => if let Some(name) = pick(i) { world.sync(&name) },
                Step::Ready(i) => if let Some(name) = pick(i) {
                    let (there, available) = world.pods[&name];
                    world.pods.insert(name.clone(), (there, (available + 1).min(there)));
                    world.sync(&name);
                },
                Step::Fail(i) => if let Some(name) = pick(i) {
                    let (there, available) = world.pods[&name];
                    world.pods.insert(name.clone(), (there, (available - 1).max(0)));
                    world.sync(&name);
                },
                Step::Image(n) => world.image(&format!("v{n}")),
            }
        }
        world.settle();
        let active: Vec<i32> = world.sets.keys().map(|n| world.size(n)).filter(|n| *n > 0).collect();
        prop_assert_eq!(active, if replicas > 0 { vec![replicas] } else { vec![] });
        prop_assert_eq!(world.condition("Progressing"), ("True".to_owned(), "NewReplicaSetAvailable".to_owned()));
        prop_assert_eq!(world.condition("Available"), ("True".to_owned(), "MinimumReplicasAvailable".to_owned()));
        // The new one and at most revisionHistoryLimit old ones.
        prop_assert!(world.sets.len() <= 3);
        prop_assert!(!world.run());
    }
}

#[test]
fn a_rollout_there_and_back_keeps_revisions_and_says_what_it_does() {
    let mut world = World::new(deployment(2, &json!("25%"), &json!("25%")));
    world.settle();
    let first = world.sets.keys().next().cloned().unwrap();
    assert_eq!(world.events, [format!("Scaled up replica set {first} from 0 to 2")]);
    world.image("v1");
    world.settle();
    let second = world.sets.keys().find(|n| **n != first).cloned().unwrap();
    assert_eq!(
        world.events[1..],
        [
            format!("Scaled up replica set {second} from 0 to 1"),
            format!("Scaled down replica set {first} from 2 to 1"),
            format!("Scaled up replica set {second} from 1 to 2"),
            format!("Scaled down replica set {first} from 1 to 0"),
        ]
    );
    world.image("v0");
    world.settle();
    let annotations = world.sets[&first].metadata.annotations.clone().unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(
        world.deployment.metadata.annotations.clone().unwrap()["deployment.kubernetes.io/revision"],
        "3"
    );
}

#[test]
fn a_paused_deployment_creates_nothing_and_is_scaled_in_proportion() {
    let mut world = World::new(deployment(10, &json!(3), &json!(2)));
    world.settle();
    world.image("v1");
    world.run();
    world.run();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    let before = world.wanted();
    assert!(before <= 13);
    world.scale(15);
    world.settle();
    assert_eq!(world.wanted(), 18);
    assert_eq!(world.sets.keys().filter(|n| world.size(n) > 0).count(), 2);
    assert_eq!(world.condition("Progressing").1, "DeploymentPaused");
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let mut world = World::new(deployment(2, &json!(0), &json!(1)));
    let strategy = world.deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap();
    strategy.type_ = Some("Recreate".into());
    strategy.rolling_update = None;
    world.settle();
    world.image("v1");
    world.run();
    assert_eq!(world.wanted(), 0);
    world.run();
    assert_eq!(world.sets.len(), 1, "old pods are still there");
    world.settle();
    assert_eq!((world.wanted(), world.sets.len()), (2, 2));
}

#[test]
fn without_progress_the_deadline_is_reported() {
    let mut world = World::new(deployment(1, &json!(1), &json!(0)));
    world.run();
    world.run();
    let again = decide(&world.observe()).again;
    assert!(again.is_some_and(|d| d.as_secs() >= 600 && d.as_secs() <= 602));
    world.now = world.now.checked_add(jiff::SignedDuration::from_secs(700)).unwrap();
    world.run();
    assert_eq!(
        world.condition("Progressing"),
        ("False".to_owned(), "ProgressDeadlineExceeded".to_owned())
    );
}
