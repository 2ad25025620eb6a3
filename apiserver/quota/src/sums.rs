//! What a whole pod asks for: the sum of its containers, or the most that one of its init containers needs with the sidecars
//! that run by then; pod-level resources replace the sums.

use serde_json::Value;

use crate::amounts::{self, Amounts, add, raise};
use crate::{items, text};

/// `requests` or `limits` of a pod as a whole, without overhead.
#[must_use]
pub fn of_pod(pod: &Value, list: &str) -> Amounts {
    of_containers(pod, list, &|container| {
        amounts::of(container.pointer(&format!("/resources/{list}")))
    })
}

/// The same, with another opinion of what a container asks for.
#[must_use]
pub fn of_containers(pod: &Value, list: &str, own: &dyn Fn(&Value) -> Amounts) -> Amounts {
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
        raise(&mut most, &needs);
    }
    raise(&mut total, &most);
    let whole = amounts::of(pod.pointer(&format!("/spec/resources/{list}")));
    let supported = |name: &str| name == "cpu" || name == "memory" || name.starts_with("hugepages-");
    total.extend(whole.into_iter().filter(|(name, _)| supported(name)));
    total
}
