//! What pods cost.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use steersman_schema::quantity::Quantity;

use crate::amounts::{self, Amounts};
use crate::scope::Scope;
use crate::{items, number, sums, text};

const PLAIN: &[&str] = &[
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// With a quota on one of these, every container must say how much it wants. (Upstream regrets it, and keeps it.)
const MUST_BE_SAID: &[&str] = &[
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

pub(crate) fn measures(name: &str) -> bool {
    PLAIN.contains(&name)
        || name.starts_with("hugepages-")
        || name.strip_prefix("requests.").is_some_and(|rest| {
            rest.starts_with("hugepages-")
                || is_extended(rest)
                || rest.starts_with("deviceclass.resource.kubernetes.io/")
        })
}

/// Of a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io"))
}

/// A pod counts while it may still use what it asked for; `count/pods` as long as it is stored.
pub(crate) fn usage(pod: &Value, now: Timestamp) -> Amounts {
    let mut usage = Amounts::from([("count/pods".to_owned(), number(1))]);
    if has_ended(pod, now) {
        return usage;
    }
    usage.insert("pods".to_owned(), number(1));
    let overhead = amounts::of(pod.pointer("/spec/overhead"));
    let mut requests = sums::of_containers(pod, "requests", &|c| with_status(pod, c, "requests"));
    amounts::add(&mut requests, &overhead);
    let mut limits = sums::of_containers(pod, "limits", &|c| with_status(pod, c, "limits"));
    let limited = overhead
        .into_iter()
        .filter(|(name, _)| limits.contains_key(name))
        .collect();
    amounts::add(&mut limits, &limited);
    usage.extend(named(&requests, &limits));
    usage
}

/// Over, or overdue: what is stuck on a lost node must not keep its replacement from starting.
fn has_ended(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") {
        return true;
    }
    let due = text(pod, "/metadata/deletionTimestamp").parse::<Timestamp>();
    let grace = pod
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    match (due, grace) {
        (Ok(due), Some(grace)) => due
            .checked_add(SignedDuration::from_secs(grace))
            .is_ok_and(|end| now > end),
        _ => false,
    }
}

/// What a container asks for, or has been given while a resize is under way, whichever is more.
fn with_status(pod: &Value, container: &Value, list: &str) -> Amounts {
    let mut own = amounts::of(container.pointer(&format!("/resources/{list}")));
    let name = text(container, "/name");
    let statuses = ["/status/containerStatuses", "/status/initContainerStatuses"];
    let status = statuses
        .iter()
        .flat_map(|list| items(pod, list))
        .find(|s| text(s, "/name") == name);
    if let Some(status) = status {
        let mut known = amounts::of(status.pointer(&format!("/resources/{list}")));
        if list == "requests" {
            amounts::raise(&mut known, &amounts::of(status.pointer("/allocatedResources")));
        }
        known.retain(|name, _| own.contains_key(name));
        amounts::raise(&mut own, &known);
    }
    own
}

/// Requests and limits under the names that quotas use.
fn named(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut out = Amounts::new();
    let mut put = |name: String, quantity: &Quantity| out.insert(name, *quantity);
    for (name, quantity) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                put(name.clone(), quantity);
                put(format!("requests.{name}"), quantity);
            }
            _ if name.starts_with("hugepages-") => {
                put(name.clone(), quantity);
                put(format!("requests.{name}"), quantity);
            }
            _ if is_extended(name) || name.starts_with("deviceclass.resource.kubernetes.io/") => {
                put(format!("requests.{name}"), quantity);
            }
            _ => {}
        }
    }
    for (name, quantity) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            put(format!("limits.{name}"), quantity);
        }
    }
    out
}

pub(crate) fn constraints(required: &[String], pod: &Value) -> Result<(), String> {
    let whole = ["requests", "limits"].map(|list| amounts::of(pod.pointer(&format!("/spec/resources/{list}"))));
    if whole.iter().any(|list| !list.is_empty()) {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in ["/spec/containers", "/spec/initContainers"]
        .iter()
        .flat_map(|l| items(pod, l))
    {
        let [requests, limits] =
            ["requests", "limits"].map(|list| amounts::of(container.pointer(&format!("/resources/{list}"))));
        let said = named(&requests, &limits);
        for name in required.iter().map(String::as_str).filter(|n| MUST_BE_SAID.contains(n)) {
            if !said.contains_key(name) {
                missing.entry(name).or_default().insert(text(container, "/name"));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = missing
        .into_iter()
        .map(|(name, containers)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(",")))
        .collect();
    Err(format!("must specify {}", texts.join("; ")))
}

pub(crate) fn covers(scope: &Scope, pod: &Value) -> bool {
    let terminating = pod
        .pointer("/spec/activeDeadlineSeconds")
        .and_then(Value::as_i64)
        .is_some_and(|n| n >= 0);
    match scope.name.as_str() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = text(pod, "/spec/priorityClassName");
            scope.selects((!class.is_empty()).then_some(class))
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    let class = text(pod, "/status/qosClass");
    if !class.is_empty() {
        return class == "BestEffort";
    }
    let asks = |holder: &Value, prefix: &str| {
        ["requests", "limits"].iter().any(|list| {
            let all = amounts::of(holder.pointer(&format!("{prefix}/{list}")));
            ["cpu", "memory"]
                .iter()
                .any(|n| all.get(*n).is_some_and(|q| q.sign() > 0))
        })
    };
    let containers = ["/spec/containers", "/spec/initContainers"];
    !asks(pod, "/spec/resources")
        && !containers
            .iter()
            .flat_map(|l| items(pod, l))
            .any(|c| asks(c, "/resources"))
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| {
        !items(term, "/namespaces").is_empty() || term.get("namespaceSelector").is_some_and(|s| !s.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let at = |list: &str| format!("/spec/affinity/{kind}/{list}");
        items(pod, &at("requiredDuringSchedulingIgnoredDuringExecution"))
            .iter()
            .any(crosses)
            || items(pod, &at("preferredDuringSchedulingIgnoredDuringExecution"))
                .iter()
                .any(|p| p.get("podAffinityTerm").is_some_and(crosses))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu, "example.com/gpu": "2"}, "limits": {"cpu": "2"}}})
    }

    #[test]
    fn a_pod_costs_its_requests_and_limits_under_all_their_names() {
        let pod = json!({"spec": {"containers": [container("a", "500m"), container("b", "1")], "overhead": {"cpu": "100m", "memory": "1Mi"}}});
        assert_eq!(
            amounts::shown(&usage(&pod, Timestamp::UNIX_EPOCH)),
            "count/pods=1,cpu=1600m,limits.cpu=4100m,memory=1Mi,pods=1,requests.cpu=1600m,requests.example.com/gpu=4,requests.memory=1Mi"
        );
    }

    #[test]
    fn a_pod_that_is_over_costs_only_its_place_in_the_store() {
        let mut pod = json!({"spec": {"containers": [container("a", "1")]}, "status": {"phase": "Succeeded"}});
        assert_eq!(amounts::shown(&usage(&pod, Timestamp::UNIX_EPOCH)), "count/pods=1");
        pod["status"]["phase"] = "Running".into();
        pod["metadata"] = json!({"deletionTimestamp": "1970-01-01T00:01:00Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(usage(&pod, Timestamp::from_second(90).unwrap()).len(), 6);
        assert_eq!(usage(&pod, Timestamp::from_second(91).unwrap()).len(), 1);
    }

    #[test]
    fn what_must_be_said_is_named_with_its_containers() {
        let pod = json!({"spec": {"containers": [container("a", "1"), {"name": "b"}]}});
        let required = ["limits.cpu", "memory", "pods"].map(str::to_owned);
        assert_eq!(
            constraints(&required, &pod),
            Err("must specify limits.cpu for: b; memory for: a,b".into())
        );
    }

    #[test]
    fn scopes_cover_what_they_say() {
        let scope = |name: &str, operator: &str, values: &[&str]| Scope {
            name: name.into(),
            operator: operator.into(),
            values: values.iter().map(|v| (*v).into()).collect(),
        };
        let pod = json!({"spec": {"priorityClassName": "high", "activeDeadlineSeconds": 5, "containers": [{"name": "c"}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"namespaceSelector": {}}]}}}});
        for (scope, expected) in [
            (scope("Terminating", "Exists", &[]), true),
            (scope("NotTerminating", "Exists", &[]), false),
            (scope("BestEffort", "Exists", &[]), true),
            (scope("NotBestEffort", "Exists", &[]), false),
            (scope("PriorityClass", "In", &["high"]), true),
            (scope("PriorityClass", "NotIn", &["high"]), false),
            (scope("PriorityClass", "DoesNotExist", &[]), false),
            (scope("CrossNamespacePodAffinity", "Exists", &[]), true),
        ] {
            assert_eq!(covers(&scope, &pod), expected, "{scope:?}");
        }
    }

    proptest! {
        #[test]
        fn each_pod_has_one_of_two_opposite_scopes(deadline in prop::option::of(0i64..10), cpu in prop::option::of(0u32..3)) {
            let resources = cpu.map_or(json!({}), |n| json!({"requests": {"cpu": n.to_string()}}));
            let pod = json!({"spec": {"activeDeadlineSeconds": deadline, "containers": [{"name": "c", "resources": resources}]}});
            for pair in [["Terminating", "NotTerminating"], ["BestEffort", "NotBestEffort"]] {
                let covered = pair.map(|name| covers(&Scope { name: name.into(), operator: "Exists".into(), values: vec![] }, &pod));
                prop_assert_ne!(covered[0], covered[1]);
            }
        }
    }
}
