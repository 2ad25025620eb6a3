//! Eviction rates by zone: upstream's cases, upstream's limiter as an oracle, and what must hold whatever nodes do.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use steersman_types::Typed;

fn node(zone: &str, ready: &str) -> Node {
    let labels = json!({"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": zone});
    Node::from_value(&json!({"metadata": {"name": "n", "labels": labels},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
    .unwrap()
}

fn nodes(zone: &str, ready: usize, silent: usize) -> Vec<Node> {
    let ready = std::iter::repeat_n(node(zone, "True"), ready);
    ready
        .chain(std::iter::repeat_n(node(zone, "Unknown"), silent))
        .collect()
}

fn settings() -> Eviction {
    Eviction {
        rate: 10.0,
        secondary_rate: 1.0,
        large_cluster: 20,
        unhealthy_zone_threshold: 0.55,
    }
}

/// The rates of zones `a` and `b` (negative: evictions are stopped altogether) with so many ready and silent nodes each.
fn rates(a: (usize, usize), b: (usize, usize)) -> (f64, f64) {
    let mut zones = Zones::default();
    let all: Vec<Node> = [nodes("a", a.0, a.1), nodes("b", b.0, b.1)].concat();
    zones.look(&all, &settings(), Instant::now());
    let rate = |zone: &str| {
        let limit = zones.zones.get(&of(&node(zone, "True")));
        limit.map_or(f64::NAN, |limit| if zones.all_lost() { -1.0 } else { limit.rate })
    };
    (rate("a"), rate("b"))
}

#[tokio::test(start_paused = true)]
async fn rates_are_those_that_upstream_gives_zones_in_each_state() {
    let none = f64::NAN;
    for (a, b, expected) in [
        // both healthy; one lost node each is no disruption
        ((3, 0), (3, 0), (10.0, 10.0)),
        ((2, 1), (3, 0), (10.0, 10.0)),
        // one of two zones entirely lost: emptied at full speed, since the others are there to take the pods
        ((0, 3), (3, 0), (10.0, 10.0)),
        // everything lost: nobody is emptied
        ((0, 3), (0, 3), (-1.0, -1.0)),
        ((0, 1), (0, 0), (-1.0, none)),
        // 55 % and more than two lost: left alone in a zone of up to 20 nodes, slow in a larger one
        ((9, 11), (3, 0), (0.0, 10.0)),
        ((10, 11), (3, 0), (10.0, 10.0)),
        ((9, 12), (3, 0), (1.0, 10.0)),
        ((1, 2), (3, 0), (10.0, 10.0)),
        ((2, 3), (3, 0), (0.0, 10.0)),
        // a zone in trouble beside one that is lost
        ((2, 3), (0, 3), (0.0, 10.0)),
    ] {
        let seen = rates(a, b);
        let same = |x: f64, y: f64| (x.is_nan() && y.is_nan()) || (x - y).abs() < f64::EPSILON;
        assert!(
            same(seen.0, expected.0) && same(seen.1, expected.1),
            "{a:?} {b:?}: {seen:?}, not {expected:?}"
        );
    }
}

#[test]
fn a_node_may_be_excluded_and_zones_have_the_older_names_first() {
    let labels = json!({"failure-domain.beta.kubernetes.io/zone": "old", "topology.kubernetes.io/zone": "new"});
    let labelled = Node::from_value(&json!({"metadata": {"name": "n", "labels": labels}})).unwrap();
    assert_eq!(of(&labelled), ":\0:old");
    let mut excluded = node("a", "Unknown");
    let labels = excluded.metadata.labels.as_mut().unwrap();
    labels.insert(EXCLUDED.to_owned(), String::new());
    let mut zones = Zones::default();
    let all = [excluded, node("a", "True"), node("b", "Unknown")];
    assert_eq!(zones.look(&all, &settings(), Instant::now()), Change::Nothing);
    let lost = [all[0].clone(), all[2].clone()];
    assert_eq!(zones.look(&lost, &settings(), Instant::now()), Change::AllLost);
}

#[tokio::test(start_paused = true)]
async fn one_node_per_ten_seconds_and_zone() {
    let (mut zones, now, settings) = (Zones::default(), Instant::now(), Eviction::default());
    let all = [nodes("a", 1, 1), nodes("b", 1, 1)].concat();
    assert_eq!(zones.look(&all, &settings, now), Change::Nothing);
    let (a, b) = (of(&node("a", "True")), of(&node("b", "True")));
    assert!(zones.may_evict(&a, now));
    zones.evicted(&a, now);
    assert!(!zones.may_evict(&a, now + Duration::from_millis(9_900)));
    assert!(zones.may_evict(&b, now) && zones.may_evict(&a, now + Duration::from_secs(10)));
    assert_eq!(zones.next(&a), Some(now + Duration::from_secs(10)));
}

/// client-go's token bucket of one, as upstream's node lifecycle controller exchanges it; whole numbers: a full bucket is
/// 10 000, a rate of `tenths` per second adds `tenths` per millisecond.
struct Bucket {
    tenths: u64,
    held: u64,
}

const FULL: u64 = 10_000;

impl Bucket {
    fn accept(&mut self) -> bool {
        let accepts = self.tenths > 0 && self.held >= FULL;
        if accepts {
            self.held -= FULL;
        }
        accepts
    }

    fn swap(&mut self, tenths: u64) {
        if tenths == self.tenths {
            return;
        }
        let held = if self.accept() { FULL } else { 0 };
        *self = Self { tenths, held };
    }
}

proptest! {
    #[test]
    fn a_zone_s_limit_is_upstream_s_token_bucket(
        steps in proptest::collection::vec((0u64..4, 0u64..200, any::<bool>()), 1..60),
    ) {
        let mut now = Instant::now();
        let mut limit = Limit { rate: 0.1, next: None };
        let mut bucket = Bucket { tenths: 1, held: FULL };
        for (which, tenths_of_seconds, take) in steps {
            let tenths = [0, 1, 2, 50][usize::try_from(which).unwrap()];
            limit.set(tenths as f64 / 10.0, now);
            bucket.swap(tenths);
            now += Duration::from_millis(tenths_of_seconds * 100);
            bucket.held = (bucket.held + bucket.tenths * tenths_of_seconds * 100).min(FULL);
            if take {
                let allowed = limit.allows(now);
                if allowed {
                    limit.wait(now);
                }
                prop_assert_eq!(allowed, bucket.accept());
            }
        }
    }

    #[test]
    fn nothing_is_moved_while_no_node_is_ready(rounds in proptest::collection::vec(
        proptest::collection::vec((0usize..3, any::<bool>()), 0..8), 1..6)) {
        let (mut zones, now, settings) = (Zones::default(), Instant::now(), Eviction::default());
        let mut lost = false;
        for round in rounds {
            let status = |ready: bool| if ready { "True" } else { "Unknown" };
            let nodes: Vec<Node> = round.iter().map(|(zone, ready)| node(["a", "b", "c"][*zone], status(*ready))).collect();
            let change = zones.look(&nodes, &settings, now);
            let none = !round.is_empty() && round.iter().all(|(_, ready)| !ready);
            prop_assert_eq!(change, match (lost, none) {
                (false, true) => Change::AllLost, (true, false) => Change::Back, _ => Change::Nothing,
            });
            lost = none;
            for zone in nodes.iter().map(of) {
                prop_assert!(!(none && zones.may_evict(&zone, now)));
            }
        }
    }

    /// Whatever nodes do, in every second of a day's worth of looks: no zone is emptied faster than its fastest rate, and
    /// a zone in trouble not at all when it is small.
    #[test]
    fn no_zone_is_emptied_faster_than_it_may(
        seconds in proptest::collection::vec(((0usize..12, 0usize..30), (0usize..12, 0usize..30), 1u64..30), 1..40),
    ) {
        let (settings, mut now, mut zones) = (settings(), Instant::now(), Zones::default());
        let mut last: BTreeMap<String, Instant> = BTreeMap::new();
        for (a, b, length) in seconds {
            let all = [nodes("a", a.0, a.1), nodes("b", b.0, b.1)].concat();
            zones.look(&all, &settings, now);
            let lost = a.0 + b.0 == 0;
            for _ in 0..length {
                for (zone, (ready, silent)) in [("a", a), ("b", b)] {
                    let zone = of(&node(zone, "True"));
                    if silent == 0 || !zones.may_evict(&zone, now) {
                        continue;
                    }
                    prop_assert!(!lost);
                    prop_assert!(state(ready, silent, &settings) != State::Partial || ready + silent > settings.large_cluster);
                    zones.evicted(&zone, now);
                    if let Some(before) = last.insert(zone, now) {
                        prop_assert!(now.duration_since(before) >= Duration::from_millis(100));
                    }
                }
                now += Duration::from_millis(50);
            }
        }
    }
}
