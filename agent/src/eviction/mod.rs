//! Ends pods when the node runs out of something, or when a pod takes more of the node's disk than it may.
//!
//! | part | what |
//! |---|---|
//! | [`threshold`] | what the configuration says |
//! | [`judge`] | which thresholds count now, and what the node is short of; pure |
//! | [`rank`], [`message`], [`local`] | whom to end, and what is said about it; pure |
//! | [`manager`] | looks, reclaims, ends one pod, waits for it to go, looks again |
//!
//! [`Pressure`] is what others see of it: admission refuses pods under pressure, the node's status shows it. What stays
//! true: at most one pod per look is ended for the node's sake; critical pods never; before pods, what nobody uses.

pub mod judge;
pub mod local;
pub mod manager;
pub mod message;
pub mod rank;
pub mod threshold;

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use steersman_types::api::core::v1::Pod;
use tokio::sync::Notify;

use crate::pod;
use crate::pod::qos::{Qos, qos};
use crate::pod::seen::Trouble;

/// Upstream's reason, of events and of pods.
pub const REASON: &str = "Evicted";

/// What a node can be short of; the names are the node's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Memory,
    Disk,
    Pid,
}

impl Kind {
    #[must_use]
    pub fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

/// Of what the node has too little, as everybody may ask.
#[derive(Default)]
pub struct Pressure {
    now: Mutex<BTreeSet<Kind>>,
    /// How many pods were ended, by signal.
    evicted: Mutex<BTreeMap<String, u64>>,
    /// It changed.
    pub changed: Notify,
}

impl Pressure {
    #[must_use]
    pub fn now(&self) -> BTreeSet<Kind> {
        self.now.lock().clone()
    }

    /// Takes over what was found.
    pub fn set(&self, found: BTreeSet<Kind>) {
        let before = std::mem::replace(&mut *self.now.lock(), found.clone());
        if before != found {
            self.changed.notify_one();
        }
    }

    pub fn count(&self, signal: &str) {
        *self.evicted.lock().entry(signal.to_owned()).or_default() += 1;
    }

    #[must_use]
    pub fn evictions(&self) -> BTreeMap<String, u64> {
        self.evicted.lock().clone()
    }
}

/// Why a node that is short of something does not take the pod, if it does not.
#[must_use]
pub fn refusal(pod: &Pod, short_of: &BTreeSet<Kind>) -> Option<Trouble> {
    if short_of.is_empty() || pod::is_critical(pod) {
        return None;
    }
    let only_memory = short_of.iter().all(|k| *k == Kind::Memory);
    if only_memory && (qos(pod) != Qos::BestEffort || tolerates_memory_pressure(pod)) {
        return None;
    }
    let names: Vec<_> = short_of.iter().map(|k| k.condition()).collect();
    Some(Trouble {
        reason: REASON.into(),
        message: format!("The node had condition: [{}]. ", names.join(" ")),
    })
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    pod::spec(pod).tolerations.iter().flatten().any(|t| {
        let (key, effect) = (given(&t.key), given(&t.effect));
        let matches = match given(&t.operator).as_str() {
            "Exists" => true,
            "" | "Equal" => given(&t.value).is_empty(),
            _ => false,
        };
        matches
            && (effect.is_empty() || effect == "NoSchedule")
            && (key == "node.kubernetes.io/memory-pressure"
                || (key.is_empty() && t.operator.as_deref() == Some("Exists")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::Typed;

    fn pod(spec: serde_json::Value) -> Pod {
        Pod::from_value(&serde_json::json!({ "spec": spec })).unwrap()
    }

    #[test]
    fn under_pressure_only_those_pods_are_taken_that_upstream_takes() {
        let plain = serde_json::json!({"containers": [{"name": "c"}]});
        let asks = serde_json::json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        let critical = serde_json::json!({"containers": [{"name": "c"}], "priority": 2_000_000_000});
        let tolerates = serde_json::json!({"containers": [{"name": "c"}],
            "tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}]});
        let other = serde_json::json!({"containers": [{"name": "c"}],
            "tolerations": [{"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"}]});
        let memory = BTreeSet::from([Kind::Memory]);
        let both = BTreeSet::from([Kind::Memory, Kind::Disk]);
        for (spec, under_memory, under_both) in [
            (plain, false, false),
            (asks, true, false),
            (critical, true, true),
            (tolerates, true, false),
            (other, false, false),
        ] {
            let pod = pod(spec.clone());
            assert_eq!(refusal(&pod, &BTreeSet::new()), None);
            assert_eq!(refusal(&pod, &memory).is_none(), under_memory, "{spec}");
            assert_eq!(refusal(&pod, &both).is_none(), under_both, "{spec}");
        }
        let why = refusal(&pod(serde_json::json!({"containers": []})), &both).unwrap();
        assert_eq!(
            (why.reason.as_str(), why.message.as_str()),
            ("Evicted", "The node had condition: [MemoryPressure DiskPressure]. ")
        );
    }
}
