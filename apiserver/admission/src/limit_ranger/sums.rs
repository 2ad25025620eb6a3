//! What a whole pod asks for: the sum of its containers, or the most that one of its init containers needs with the sidecars
//! that run by then; pod-level cpu and memory replace the sums.

use std::collections::BTreeMap;

use serde_json::Value;
use steersman_auth::lister::{items, text};
use steersman_schema::quantity::Quantity;

pub(super) type Amounts = BTreeMap<String, Quantity>;

/// A resource list; entries that are no quantities are left out (validation refuses them).
pub(super) fn amounts(list: Option<&Value>) -> Amounts {
    let entries = list.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(name, value)| Some((name.clone(), Quantity::parse(value.as_str()?).ok()?)))
        .collect()
}

/// `requests` or `limits` of a pod as a whole.
pub(super) fn of_pod(pod: &Value, list: &str) -> Amounts {
    let own = |container: &Value| amounts(container.pointer(&format!("/resources/{list}")));
    let mut total = Amounts::new();
    for container in items(pod, "/spec/containers") {
        add(&mut total, &own(container));
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in items(pod, "/spec/initContainers") {
        let mut needs = own(container);
        if text(container, "/restartPolicy") == "Always" {
            add(&mut total, &needs);
            add(&mut sidecars, &needs);
            needs = sidecars.clone();
        } else {
            add(&mut needs, &sidecars);
        }
        raise(&mut most, needs);
    }
    raise(&mut total, most);
    let whole = amounts(pod.pointer(&format!("/spec/resources/{list}")));
    total.extend(whole.into_iter().filter(|(name, _)| name == "cpu" || name == "memory"));
    total
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, quantity) in more {
        let sum = total.get(name).map_or(*quantity, |have| have.plus(quantity));
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Amounts, other: Amounts) {
    for (name, quantity) in other {
        if total.get(&name).is_none_or(|have| quantity > *have) {
            total.insert(name, quantity);
        }
    }
}
