//! Which IP families a Service has: what the client said, what the addresses imply, what the cluster can do (upstream:
//! `initIPFamilyFields`). Pure; called before anything is allocated.

use serde_json::{Value, json};
use steersman_schema::field::{FieldError, FieldErrors, Path};

use super::{family_of, needs_addresses, strings, text};

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// The addresses and families of a Service with `PreferDualStack` that did not change stay as they are, whatever the
/// cluster has become.
pub fn kept(service: &Value, old: Option<&Value>) -> bool {
    let Some(old) = old else { return false };
    let kind = text(service, "/spec/type");
    let prefers = |s: &Value| text(s, "/spec/ipFamilyPolicy") == PREFER;
    kind == text(old, "/spec/type")
        && matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer")
        && prefers(service)
        && (prefers(old) || text(old, "/spec/ipFamilyPolicy").is_empty())
        && same(service, old, "clusterIPs")
        && same(service, old, "ipFamilies")
}

fn list(service: &Value, key: &str) -> Vec<String> {
    strings(&service["spec"][key])
}

fn same(a: &Value, b: &Value, key: &str) -> bool {
    list(a, key) == list(b, key)
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

/// Writes `ipFamilyPolicy` and `ipFamilies` into the Service; `configured` are the cluster's families, the first one its
/// own. Well-formed addresses are presumed.
pub fn settle(service: &mut Value, old: Option<&Value>, configured: &[&str]) -> FieldErrors {
    if !needs_addresses(service) || kept(service, old) {
        return FieldErrors::new();
    }
    let headless = text(service, "/spec/clusterIP") == "None";
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    // Its endpoints may be of either family.
    let free = headless && selector.is_none_or(serde_json::Map::is_empty);
    if text(service, "/spec/ipFamilyPolicy").is_empty() {
        let before = old.map(|o| text(o, "/spec/ipFamilyPolicy")).filter(|p| !p.is_empty());
        let policy = before.unwrap_or(if free { REQUIRE } else { SINGLE });
        service["spec"]["ipFamilyPolicy"] = policy.into();
    }
    let policy = text(service, "/spec/ipFamilyPolicy").to_owned();
    let mut errors = old.map(|old| shrink(service, old, &policy)).unwrap_or_default();
    errors.extend(too_many_for(service, &policy));
    let mut families = list(service, "ipFamilies");
    errors.extend(implied(service, &mut families, configured));
    if !errors.is_empty() {
        return errors;
    }
    if !free {
        errors.extend(not_configured(&families, &policy, configured));
        if !errors.is_empty() {
            return errors;
        }
    }
    if families.is_empty() {
        families.extend(configured.first().map(|f| (*f).to_owned()));
    }
    if policy != SINGLE && families.len() == 1 && (free || configured.len() == 2) {
        families.push(other(&families[0]).to_owned());
    }
    service["spec"]["ipFamilies"] = json!(families);
    errors
}

/// An update to one family drops the second address where the client left it; another policy must not lose one.
fn shrink(service: &mut Value, old: &Value, policy: &str) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let path = Path::new("spec").child("ipFamilyPolicy");
    for (key, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (now, before) = (list(service, key), list(old, key));
        if policy == SINGLE {
            if now == before && now.len() > 1 {
                service["spec"][key] = json!([now[0]]);
            }
        } else if !now.is_empty() && now.len() < before.len() {
            let why = format!("must be 'SingleStack' to release the secondary {what}");
            errors.push(FieldError::invalid(&path, policy, why));
        }
    }
    errors
}

fn too_many_for(service: &Value, policy: &str) -> FieldErrors {
    let path = Path::new("spec").child("ipFamilyPolicy");
    [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")]
        .iter()
        .filter(|(key, _)| policy == SINGLE && list(service, key).len() == 2)
        .map(|(_, what)| {
            let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            FieldError::invalid(&path, policy, why)
        })
        .collect()
}

/// Families that follow from addresses.
fn implied(service: &Value, families: &mut Vec<String>, configured: &[&str]) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for (i, ip) in list(service, "clusterIPs").iter().enumerate() {
        if ip == "None" {
            break;
        }
        if i < families.len() {
            continue;
        }
        let family = family_of(ip);
        if configured.contains(&family) {
            families.push(family.to_owned());
        } else {
            let path = Path::new("spec").child("clusterIPs").index(i);
            let why = format!("{family} is not configured on this cluster");
            errors.push(FieldError::invalid(&path, &service["spec"]["clusterIPs"], why));
        }
    }
    errors
}

fn not_configured(families: &[String], policy: &str, configured: &[&str]) -> FieldErrors {
    let path = Path::new("spec");
    let mut errors = FieldErrors::new();
    if policy == REQUIRE && configured.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), policy, why));
    }
    for (i, family) in families.iter().enumerate() {
        if !configured.contains(&family.as_str()) {
            let place = path.child("ipFamilies").index(i);
            errors.push(FieldError::invalid(&place, family, "not configured on this cluster"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[&str] = &["IPv4"];
    const TWO: &[&str] = &["IPv4", "IPv6"];

    fn texts(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    /// Policy, families and faults of a spec.
    fn settled(spec: Value, old: Option<Value>, configured: &[&str]) -> (Value, Value, Vec<String>) {
        let mut service = json!({ "spec": spec });
        let old = old.map(|spec| json!({ "spec": spec }));
        let errors = texts(&settle(&mut service, old.as_ref(), configured));
        let spec = &service["spec"];
        (spec["ipFamilyPolicy"].clone(), spec["ipFamilies"].clone(), errors)
    }

    #[test]
    fn a_service_has_the_clusters_own_family_unless_it_says_more() {
        let plain = json!({"type": "ClusterIP"});
        assert_eq!(
            settled(plain.clone(), None, TWO),
            (json!("SingleStack"), json!(["IPv4"]), vec![])
        );
        let six = json!({"type": "ClusterIP", "clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]});
        assert_eq!(settled(six.clone(), None, TWO).1, json!(["IPv6"]));
        assert_eq!(
            settled(six, None, ONE).2,
            [r#"spec.clusterIPs[0]: Invalid value: ["fd00::5"]: IPv6 is not configured on this cluster"#]
        );
        let both = json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(settled(both.clone(), None, TWO).1, json!(["IPv4", "IPv6"]));
        assert_eq!(settled(both, None, ONE).1, json!(["IPv4"]));
    }

    #[test]
    fn two_addresses_need_a_policy() {
        let two = json!({"type": "ClusterIP", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5", "fd00::5"]});
        assert_eq!(
            settled(two, None, TWO).2,
            [
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"
            ]
        );
        let required = json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]});
        assert_eq!(
            settled(required, None, ONE).2,
            [
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"
            ]
        );
    }

    #[test]
    fn a_headless_service_without_selector_has_both_families_anywhere() {
        let free = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]});
        assert_eq!(
            settled(free, None, ONE),
            (json!("RequireDualStack"), json!(["IPv4", "IPv6"]), vec![])
        );
    }

    #[test]
    fn an_update_keeps_the_policy_and_may_go_back_to_one_family() {
        let old = json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.0.0.5", "fd00::5"]});
        let mut new = old.clone();
        new["ipFamilies"] = json!(["IPv4"]);
        assert_eq!(
            settled(new.clone(), Some(old.clone()), TWO).2,
            [
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP family"
            ]
        );
        let mut single = old.clone();
        single["ipFamilyPolicy"] = json!("SingleStack");
        assert_eq!(settled(single, Some(old), TWO).1, json!(["IPv4"]));
    }
}
