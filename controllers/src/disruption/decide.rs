//! How many pods of a budget may be disrupted now. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use steersman_runtime::events::EventType;
use steersman_types::api::core::v1::Pod;
use steersman_types::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use steersman_types::meta::Condition;
use steersman_types::{IntOrString, LabelSelector, Time};

use crate::{owners, pods};

/// A pod that was to be evicted and still is not going after this time will stay.
pub const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// As long may `DisruptionTarget` say so of a pod that then stays.
pub const STALE_AFTER: SignedDuration = SignedDuration::from_mins(2);
const CONDITION: &str = "DisruptionAllowed";

/// The controller behind a pod: who counts, and for how many pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    pub uid: String,
    pub replicas: i32,
}

/// What is known about one budget.
#[derive(Clone, Debug)]
pub struct Observed {
    pub budget: Arc<PodDisruptionBudget>,
    /// The pods that it selects.
    pub pods: Vec<Arc<Pod>>,
    /// By the UID of the pods' controller references; `None` where there is no such controller. The error is why they
    /// could not be asked.
    pub scales: Result<BTreeMap<String, Option<Scale>>, String>,
    pub now: Timestamp,
}

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// To be written, when it differs from what is there.
    pub status: Option<PodDisruptionBudgetStatus>,
    /// About the budget.
    pub remarks: Vec<(EventType, &'static str, String)>,
    /// Pods that were to go and did not.
    pub stayed: Vec<Arc<Pod>>,
    pub again: Option<Duration>,
}

/// Whether counting needs the scales of the pods' controllers.
#[must_use]
pub fn needs_scales(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    let text = |v: Option<&IntOrString>| matches!(v, Some(IntOrString::String(_)));
    spec.is_some_and(|s| s.max_unavailable.is_some() || text(s.min_available.as_ref()))
}

/// See [`Plan`].
#[must_use]
pub fn decide(seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    if seen.pods.is_empty() {
        plan.remarks
            .push((EventType::Normal, "NoPods", "No matching pods found".to_owned()));
    }
    let expected = match expected(seen) {
        Ok(expected) => expected,
        Err(why) => {
            let text = format!("Failed to calculate the number of expected pods: {why}");
            plan.remarks
                .push((EventType::Warning, "CalculateExpectedPodCountFailed", text));
            plan.status = failed(seen, &why);
            return plan;
        }
    };
    if expected.unmanaged {
        let selector = seen.budget.spec.as_ref().and_then(|s| s.selector.as_ref());
        let text = format!(
            "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status \
             of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these \
             pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
            shown(selector)
        );
        plan.remarks.push((EventType::Warning, "UnmanagedPods", text));
    }
    let disrupted = disrupted(seen, &mut plan);
    let healthy = seen
        .pods
        .iter()
        .filter(|p| !pods::is_terminating(p) && pods::is_ready(p))
        .filter(|p| !disrupted.contains_key(p.metadata.name.as_deref().unwrap_or_default()))
        .count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    // Without expected pods nothing is allowed: the first ones may come before the next count.
    let allowed = if expected.count > 0 {
        (healthy - expected.desired).max(0)
    } else {
        0
    };
    let before = seen.budget.status.clone().unwrap_or_default();
    let generation = seen.budget.metadata.generation;
    let (on, reason) = if allowed > 0 {
        (true, "SufficientPods")
    } else {
        (false, "InsufficientPods")
    };
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.desired),
        expected_pods: Some(expected.count),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: generation,
        conditions: Some(with_condition(&before, on, reason, "", generation, seen.now)),
    };
    plan.status = (!same(&before, &status)).then_some(status);
    plan
}

/// How many pods there should be, and how many of them healthy.
struct Expected {
    count: i32,
    desired: i32,
    /// Some pods have no controller.
    unmanaged: bool,
}

fn expected(seen: &Observed) -> Result<Expected, String> {
    let spec = seen.budget.spec.clone().unwrap_or_default();
    if let Some(most) = &spec.max_unavailable {
        let (count, unmanaged) = total_scale(seen)?;
        let desired = (count - share(most, count)?).max(0);
        return Ok(Expected {
            count,
            desired,
            unmanaged,
        });
    }
    match &spec.min_available {
        None => Ok(Expected {
            count: 0,
            desired: 0,
            unmanaged: false,
        }),
        Some(IntOrString::Int(least)) => Ok(Expected {
            count: i32::try_from(seen.pods.len()).unwrap_or(i32::MAX),
            desired: *least,
            unmanaged: false,
        }),
        Some(least) => {
            let (count, unmanaged) = total_scale(seen)?;
            let desired = share(least, count)?;
            Ok(Expected {
                count,
                desired,
                unmanaged,
            })
        }
    }
}

/// The sum over the controllers of all pods, each once; and whether there are pods without one.
fn total_scale(seen: &Observed) -> Result<(i32, bool), String> {
    let scales = seen.scales.as_ref().map_err(Clone::clone)?;
    let mut counted = BTreeSet::new();
    let (mut total, mut unmanaged) = (0_i32, false);
    for pod in &seen.pods {
        let Some(owner) = owners::controller_of(&pod.metadata) else {
            unmanaged = true;
            continue;
        };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let scale = scales.get(&owner.uid).and_then(Option::as_ref);
        let scale = scale.ok_or_else(|| format!("found no controllers for pod {name:?}"))?;
        if counted.insert(scale.uid.as_str()) {
            total = total.saturating_add(scale.replicas);
        }
    }
    Ok((total, unmanaged))
}

/// A number, or a percentage of `total` rounded up.
fn share(value: &IntOrString, total: i32) -> Result<i32, String> {
    match value {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok());
            let percent = percent.ok_or_else(|| {
                format!("invalid value for IntOrString: invalid type: string is not a percentage: {text:?}")
            })?;
            let part = (percent * i64::from(total)).div_euclid(100) + i64::from((percent * i64::from(total)) % 100 > 0);
            Ok(i32::try_from(part).unwrap_or(i32::MAX))
        }
    }
}

/// Pods that are about to go, as the eviction said; those that did not in time are left out and told of.
fn disrupted(seen: &Observed, plan: &mut Plan) -> BTreeMap<String, Time> {
    let known = seen.budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
    let mut left = BTreeMap::new();
    for pod in seen.pods.iter().filter(|p| !pods::is_terminating(p)) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(since) = known.and_then(|k| k.get(&name)) else {
            continue;
        };
        let end = since.0.saturating_add(DELETION_TIMEOUT).unwrap_or(Timestamp::MAX);
        if end < seen.now {
            plan.stayed.push(pod.clone());
        } else {
            let wait =
                Duration::try_from(end.duration_since(seen.now)).unwrap_or(Duration::ZERO) + Duration::from_millis(10);
            plan.again = Some(plan.again.map_or(wait, |again| again.min(wait)));
            left.insert(name, since.clone());
        }
    }
    left
}

/// What is said when nothing can be counted: no disruption then.
fn failed(seen: &Observed, why: &str) -> Option<PodDisruptionBudgetStatus> {
    let before = seen.budget.status.clone().unwrap_or_default();
    let observed = before.observed_generation;
    let status = PodDisruptionBudgetStatus {
        disruptions_allowed: Some(0),
        conditions: Some(with_condition(&before, false, "SyncFailed", why, observed, seen.now)),
        ..before.clone()
    };
    (!same(&before, &status)).then_some(status)
}

fn with_condition(
    before: &PodDisruptionBudgetStatus,
    on: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let status = if on { "True" } else { "False" };
    let old = conditions.iter().find(|c| c.type_ == CONDITION);
    let since = old
        .filter(|c| c.status == status)
        .map_or(Time(now), |c| c.last_transition_time.clone());
    let new = Condition {
        type_: CONDITION.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
    };
    match conditions.iter_mut().find(|c| c.type_ == CONDITION) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
    conditions
}

/// Equal where absent numbers and lists are zero and empty.
fn same(a: &PodDisruptionBudgetStatus, b: &PodDisruptionBudgetStatus) -> bool {
    let plain = |s: &PodDisruptionBudgetStatus| {
        let mut s = s.clone();
        for number in [
            &mut s.current_healthy,
            &mut s.desired_healthy,
            &mut s.expected_pods,
            &mut s.disruptions_allowed,
        ] {
            number.get_or_insert(0);
        }
        s.disrupted_pods.get_or_insert_default();
        s.observed_generation.get_or_insert(0);
        s
    };
    plain(a) == plain(b)
}

/// A selector as upstream's messages show it.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else {
        return "nil".to_owned();
    };
    let mut text = "&LabelSelector{MatchLabels:map[string]string{".to_owned();
    for (key, value) in selector.match_labels.iter().flatten() {
        // Writing to a String does not fail.
        let _ = write!(text, "{key}: {value},");
    }
    text.push_str("},MatchExpressions:[]LabelSelectorRequirement{");
    for one in selector.match_expressions.iter().flatten() {
        let values = one.values.as_deref().unwrap_or_default().join(" ");
        let _ = write!(
            text,
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            one.key, one.operator
        );
    }
    text.push_str("},}");
    text
}

/// How long until a pod's `DisruptionTarget` is out of date; `None` for pods where it says nothing wrong.
#[must_use]
pub fn stale_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let condition = pods::condition(pod, "DisruptionTarget")?;
    // What the node's agent says, it may take its time about.
    let theirs = condition.reason.as_deref() == Some("TerminationByKubelet");
    if pods::is_terminating(pod) || pods::is_finished(pod) || condition.status != "True" || theirs {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(now, |t| t.0);
    let left = since.saturating_add(STALE_AFTER).unwrap_or(now).duration_since(now);
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}
