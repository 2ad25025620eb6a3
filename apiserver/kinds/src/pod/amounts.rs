//! Sums over the containers of a pod, and the quality of service that follows from them.

use super::containers::is_sidecar;
use crate::resources::{is_hugepages, quantity};
use crate::view::View;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use steersman_schema::quantity::Quantity;

type Amounts = BTreeMap<String, Quantity>;

fn of(container: &Value, which: &str) -> Amounts {
    let found = container
        .at("/resources")
        .get(which)
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    found
        .map(|(k, v)| (k.clone(), quantity(v.as_str().unwrap_or_default())))
        .collect()
}

fn add(into: &mut Amounts, more: &Amounts) {
    for (key, amount) in more {
        into.entry(key.clone())
            .and_modify(|a| *a = a.plus(amount))
            .or_insert(*amount);
    }
}

fn raise(into: &mut Amounts, more: &Amounts) {
    for (key, amount) in more {
        into.entry(key.clone())
            .and_modify(|a| *a = (*a).max(*amount))
            .or_insert(*amount);
    }
}

/// What the containers need together: all regular ones and sidecars at once, or an init container with the sidecars
/// started before it. `which` is `requests` or `limits`; overhead is not counted.
pub fn of_containers(spec: &Value, which: &str) -> Amounts {
    let mut total = Amounts::new();
    spec.items("/containers")
        .iter()
        .for_each(|c| add(&mut total, &of(c, which)));
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in spec.items("/initContainers") {
        let mut own = of(container, which);
        if is_sidecar(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut most, &own);
    }
    raise(&mut total, &most);
    total
}

/// `Guaranteed`, `Burstable` or `BestEffort`: from cpu and memory of the pod as a whole if it says them, otherwise of
/// its regular and init containers.
pub fn quality(spec: &Value) -> &'static str {
    let counted = |amounts: Amounts| -> Amounts {
        amounts
            .into_iter()
            .filter(|(k, a)| matches!(k.as_str(), "cpu" | "memory") && a.sign() > 0)
            .collect()
    };
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut guaranteed = true;
    let both: BTreeSet<&str> = ["cpu", "memory"].into();
    let holders: Vec<&Value> = match spec.has("/resources") {
        true => vec![spec],
        false => spec
            .items("/containers")
            .iter()
            .chain(spec.items("/initContainers"))
            .collect(),
    };
    for holder in holders {
        add(&mut requests, &counted(of(holder, "requests")));
        let found = counted(of(holder, "limits"));
        guaranteed &= both.iter().all(|k| found.contains_key(*k));
        add(&mut limits, &found);
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests.len() == limits.len() && requests.iter().all(|(k, v)| limits.get(k) == Some(v));
    if guaranteed && equal { "Guaranteed" } else { "Burstable" }
}

/// Fills in requests and limits of the pod as a whole from its containers, if the pod says some of them itself.
pub fn default_pod_level(spec: &mut Value) {
    let own = spec.at("/resources");
    let given = |which: &str| own.get(which).and_then(Value::as_object).cloned().unwrap_or_default();
    let (mut requests, mut limits) = (given("requests"), given("limits"));
    if requests.is_empty() && limits.is_empty() {
        return;
    }
    for (resource, amount) in of_containers(spec, "limits") {
        if is_hugepages(&resource) && !requests.contains_key(&resource) {
            limits.entry(resource).or_insert_with(|| amount.to_string().into());
        }
    }
    if !limits.is_empty() {
        let supported = |r: &str| matches!(r, "cpu" | "memory") || is_hugepages(r);
        for (resource, amount) in of_containers(spec, "requests") {
            if supported(&resource) && !is_hugepages(&resource) {
                requests.entry(resource).or_insert_with(|| amount.to_string().into());
            }
        }
        for (resource, amount) in limits.iter().filter(|(r, _)| supported(r)) {
            requests.entry(resource.clone()).or_insert_with(|| amount.clone());
        }
    }
    if let Some(own) = spec.get_mut("resources") {
        if !limits.is_empty() {
            crate::view::set(own, "limits", limits);
        }
        if !requests.is_empty() {
            crate::view::set(own, "requests", requests);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_init_container_counts_beside_the_sidecars_before_it() {
        let spec = json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}], "initContainers": [
            {"restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
            {"resources": {"requests": {"cpu": "3"}}}]});
        assert_eq!(
            of_containers(&spec, "requests")
                .get("cpu")
                .map(ToString::to_string)
                .as_deref(),
            Some("3500m")
        );
    }

    #[test]
    fn quality_follows_from_cpu_and_memory() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        for (resources, want) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"example.com/gpu": "1"}}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"requests": full, "limits": full}), "Guaranteed"),
            (
                json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}),
                "Burstable",
            ),
        ] {
            assert_eq!(quality(&json!({"containers": [{"resources": resources}]})), want);
        }
    }
}
