//! What objects cost against a ResourceQuota: which resources a quota may limit, how much of them an object uses, and
//! which objects a quota's scopes cover.
//!
//! Callers: the admission plugin (charges what is created) and the controller (counts what is there). Both must agree to
//! the last digit, so the arithmetic is here once. Pure: objects are JSON as the API shows them, the time is an argument.

pub mod amounts;
mod pod;
mod scope;
pub mod sums;

use serde_json::Value;

pub use amounts::Amounts;
pub use scope::{Scope, scopes};

use steersman_schema::quantity::{Format, Quantity};

/// How objects of one resource are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluator {
    Pods,
    Services,
    Claims,
    /// By number only: `count/<plural>.<group>`, and the older name where there is one.
    Count(Vec<String>),
}

/// The evaluator of a resource.
#[must_use]
pub fn evaluator(group: &str, plural: &str) -> Evaluator {
    match (group, plural) {
        ("", "pods") => Evaluator::Pods,
        ("", "services") => Evaluator::Services,
        ("", "persistentvolumeclaims") => Evaluator::Claims,
        _ => {
            let mut names = vec![count_name(group, plural)];
            if group.is_empty() && LEGACY.contains(&plural) {
                names.push(plural.to_owned());
            }
            Evaluator::Count(names)
        }
    }
}

/// Resources that a quota may count by their bare name.
pub const LEGACY: &[&str] = &["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// `count/pods`, `count/deployments.apps`.
#[must_use]
pub fn count_name(group: &str, plural: &str) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    format!("count/{plural}{dot}{group}")
}

/// Resources that are never charged: they are not stored, or too many and short-lived.
#[must_use]
pub fn is_ignored(group: &str, plural: &str) -> bool {
    match group {
        "" => matches!(plural, "bindings" | "componentstatuses" | "events"),
        "events.k8s.io" => plural == "events",
        "authentication.k8s.io" | "authorization.k8s.io" => true,
        _ => false,
    }
}

const CLASS: &str = ".storageclass.storage.k8s.io/";
const STORAGE: &str = "requests.storage";
const CLAIMS: &str = "persistentvolumeclaims";

impl Evaluator {
    /// Whether the evaluator measures the resource of this name.
    #[must_use]
    pub fn measures(&self, name: &str) -> bool {
        match self {
            Self::Pods => pod::measures(name),
            Self::Services => matches!(
                name,
                "count/services" | "services" | "services.nodeports" | "services.loadbalancers"
            ),
            Self::Claims => {
                let by_class = |name: &str| name.split_once(CLASS).map(|(_, rest)| rest.to_owned());
                name == "count/persistentvolumeclaims"
                    || [name.to_owned()]
                        .into_iter()
                        .chain(by_class(name))
                        .any(|n| n == CLAIMS || n == STORAGE)
            }
            Self::Count(names) => names.iter().any(|n| n == name),
        }
    }

    /// What the object uses.
    #[must_use]
    pub fn usage(&self, object: &Value, now: jiff::Timestamp) -> Amounts {
        match self {
            Self::Pods => pod::usage(object, now),
            Self::Services => service_usage(object),
            Self::Claims => claim_usage(object),
            Self::Count(names) => names.iter().map(|n| (n.clone(), number(1))).collect(),
        }
    }

    /// Whether a scope covers the object.
    #[must_use]
    pub fn covers(&self, scope: &Scope, object: &Value) -> bool {
        match self {
            Self::Pods => pod::covers(scope, object),
            Self::Claims => claim_covers(scope, object),
            Self::Services | Self::Count(_) => false,
        }
    }

    /// Whether a quota (with its `status.hard`) is about the object.
    #[must_use]
    pub fn matches(&self, quota: &Value, object: &Value) -> bool {
        let hard = amounts::of(quota.pointer("/status/hard"));
        hard.keys().any(|name| self.measures(name)) && scopes(quota).iter().all(|s| self.covers(s, object))
    }

    /// What the object must say so that the named resources can be measured.
    ///
    /// # Errors
    /// What is missing, in upstream's words.
    pub fn constraints(&self, required: &[String], object: &Value) -> Result<(), String> {
        match self {
            Self::Pods => pod::constraints(required, object),
            _ => Ok(()),
        }
    }
}

fn number(n: i64) -> Quantity {
    Quantity::from_value(n, Format::DecimalSI)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn service_usage(service: &Value) -> Amounts {
    let ports = items(service, "/spec/ports");
    let balanced = text(service, "/spec/type") == "LoadBalancer";
    let all = i64::try_from(ports.len()).unwrap_or(i64::MAX);
    let asked = ports
        .iter()
        .filter(|p| p["nodePort"].as_i64().unwrap_or(0) != 0)
        .count();
    let node_ports = match text(service, "/spec/type") {
        "NodePort" => all,
        "LoadBalancer" if service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false)) => {
            i64::try_from(asked).unwrap_or(i64::MAX)
        }
        "LoadBalancer" => all,
        _ => 0,
    };
    [
        ("count/services", 1),
        ("services", 1),
        ("services.loadbalancers", i64::from(balanced)),
        ("services.nodeports", node_ports),
    ]
    .into_iter()
    .map(|(name, n)| (name.to_owned(), number(n)))
    .collect()
}

fn claim_usage(claim: &Value) -> Amounts {
    let mut usage = Amounts::from([(CLAIMS.to_owned(), number(1)), (count_name("", CLAIMS), number(1))]);
    let class = match claim.pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class") {
        Some(class) => class.as_str().unwrap_or_default(),
        None => text(claim, "/spec/storageClassName"),
    };
    let at = |pointer: &str| Quantity::parse(claim.pointer(pointer)?.as_str()?).ok();
    // An expansion that is under way counts by what has been allocated.
    let storage = at("/spec/resources/requests/storage").map(|asked| {
        let most = asked.max(at("/status/allocatedResources/storage").unwrap_or(asked));
        if most.is_integer() {
            most
        } else {
            Quantity::from_value(most.value(), most.format())
        }
    });
    usage.extend(storage.map(|s| (STORAGE.to_owned(), s)));
    if !class.is_empty() {
        usage.insert(format!("{class}{CLASS}{CLAIMS}"), number(1));
        usage.extend(storage.map(|s| (format!("{class}{CLASS}{STORAGE}"), s)));
    }
    usage
}

fn claim_covers(scope: &Scope, claim: &Value) -> bool {
    if scope.name != "VolumeAttributesClass" {
        return false;
    }
    let pointers = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ];
    let classes: Vec<&str> = pointers
        .iter()
        .map(|p| text(claim, p))
        .filter(|name| !name.is_empty())
        .collect();
    if classes.is_empty() {
        return scope.selects(None);
    }
    classes.into_iter().any(|class| scope.selects(Some(class)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(group: &str, plural: &str, object: Value) -> String {
        amounts::shown(&evaluator(group, plural).usage(&object, jiff::Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn services_cost_what_their_type_asks_for() {
        let service = |kind: &str, allocate: Value| json!({"spec": {"type": kind, "allocateLoadBalancerNodePorts": allocate, "ports": [{"port": 1}, {"port": 2, "nodePort": 30000}]}});
        for (kind, allocate, expected) in [
            (
                "ClusterIP",
                Value::Null,
                "services.loadbalancers=0,services.nodeports=0",
            ),
            ("NodePort", Value::Null, "services.loadbalancers=0,services.nodeports=2"),
            (
                "LoadBalancer",
                Value::Null,
                "services.loadbalancers=1,services.nodeports=2",
            ),
            (
                "LoadBalancer",
                json!(false),
                "services.loadbalancers=1,services.nodeports=1",
            ),
        ] {
            let text = shown("", "services", service(kind, allocate));
            assert_eq!(text, format!("count/services=1,services=1,{expected}"), "{kind}");
        }
    }

    #[test]
    fn claims_cost_their_storage_also_by_class() {
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1500m"}}}});
        assert_eq!(
            shown("", "persistentvolumeclaims", claim),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             gold.storageclass.storage.k8s.io/requests.storage=2,persistentvolumeclaims=1,requests.storage=2"
        );
    }

    #[test]
    fn everything_else_is_counted() {
        assert_eq!(shown("", "secrets", json!({})), "count/secrets=1,secrets=1");
        assert_eq!(shown("apps", "deployments", json!({})), "count/deployments.apps=1");
        assert!(evaluator("", "pods").measures("requests.example.com/gpu"));
        assert!(!evaluator("", "pods").measures("configmaps"));
        assert!(evaluator("", "persistentvolumeclaims").measures("x.storageclass.storage.k8s.io/requests.storage"));
    }
}
