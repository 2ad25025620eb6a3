//! Defaults beyond the table's static ones (upstream: `SetDefaults_*`) of kinds without a file of their own.

use crate::resources::round_up;
use crate::view::{View, child, each_mut, set, set_default, set_if_empty};
use serde_json::{Value, json};

/// The defaulting of a resource, if it has any.
pub fn default(id: &str) -> Option<fn(&mut Value)> {
    Some(match id {
        "/persistentvolumes" => volume,
        "storage.k8s.io/storageclasses" => |class| {
            set_default(class, "reclaimPolicy", "Delete");
            set_default(class, "volumeBindingMode", "Immediate");
        },
        "storage.k8s.io/csidrivers" => driver,
        "networking.k8s.io/networkpolicies" => network_policy,
        "networking.k8s.io/ingressclasses" => |class| {
            if let Some(parameters) = class.pointer_mut("/spec/parameters").filter(|p| p.is_object()) {
                set_default(parameters, "scope", "Cluster");
            }
        },
        "admissionregistration.k8s.io/validatingwebhookconfigurations" => |hooks| {
            each_mut(hooks, "/webhooks").for_each(webhook);
        },
        "admissionregistration.k8s.io/mutatingwebhookconfigurations" => |hooks| {
            for hook in each_mut(hooks, "/webhooks") {
                webhook(hook);
                set_default(hook, "reinvocationPolicy", "Never");
            }
        },
        "admissionregistration.k8s.io/validatingadmissionpolicies"
        | "admissionregistration.k8s.io/mutatingadmissionpolicies" => |policy| {
            if let Some(spec) = child(policy, "spec") {
                set_default(spec, "failurePolicy", "Fail");
                match_resources(spec, "matchConstraints");
            }
        },
        "admissionregistration.k8s.io/validatingadmissionpolicybindings"
        | "admissionregistration.k8s.io/mutatingadmissionpolicybindings" => |binding| {
            if let Some(spec) = child(binding, "spec") {
                match_resources(spec, "matchResources");
            }
        },
        "flowcontrol.apiserver.k8s.io/flowschemas" => |schema| {
            if let Some(spec) = child(schema, "spec")
                && spec.int("/matchingPrecedence") == 0
            {
                set(spec, "matchingPrecedence", 1000);
            }
        },
        "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations" => priority_level,
        "apiregistration.k8s.io/apiservices" => |service| {
            if let Some(reference) = service.pointer_mut("/spec/service").filter(|s| s.is_object()) {
                set_default(reference, "port", 443);
            }
        },
        "apiextensions.k8s.io/customresourcedefinitions" => definition,
        "resource.k8s.io/resourceclaims" => |claim| requests(claim, "/spec/devices/requests"),
        "resource.k8s.io/resourceclaimtemplates" => |template| requests(template, "/spec/spec/devices/requests"),
        _ => return None,
    })
}

fn volume(volume: &mut Value) {
    if let Some(status) = child(volume, "status") {
        set_if_empty(status, "phase", "Pending");
    }
    if let Some(spec) = child(volume, "spec") {
        round_up(spec.get_mut("capacity"));
        set_if_empty(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default(spec, "volumeMode", "Filesystem");
        if let Some(path) = spec.get_mut("hostPath").filter(|p| p.is_object()) {
            set_default(path, "type", "");
        }
    }
}

fn definition(definition: &mut Value) {
    let Some(spec) = child(definition, "spec") else { return };
    let kind = spec.text("/names/kind").to_string();
    if let Some(names) = child(spec, "names") {
        set_if_empty(names, "singular", kind.to_lowercase());
        if !kind.is_empty() {
            set_if_empty(names, "listKind", format!("{kind}List"));
        }
    }
    set_default(spec, "conversion", json!({ "strategy": "None" }));
    if let Some(service) = spec
        .pointer_mut("/conversion/webhook/clientConfig/service")
        .filter(|s| s.is_object())
    {
        set_default(service, "port", 443);
    }
}

fn driver(driver: &mut Value) {
    let Some(spec) = child(driver, "spec") else { return };
    set_default(spec, "attachRequired", true);
    for key in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        set_default(spec, key, false);
    }
    set_default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.items("/volumeLifecycleModes").is_empty() {
        set(spec, "volumeLifecycleModes", json!(["Persistent"]));
    }
}

fn network_policy(policy: &mut Value) {
    let Some(spec) = child(policy, "spec") else { return };
    for rules in ["/ingress", "/egress"] {
        for rule in each_mut(spec, rules) {
            each_mut(rule, "/ports").for_each(|port| set_default(port, "protocol", "TCP"));
        }
    }
    if spec.items("/policyTypes").is_empty() {
        let mut types = vec!["Ingress"];
        if !spec.items("/egress").is_empty() {
            types.push("Egress");
        }
        set(spec, "policyTypes", json!(types));
    }
}

fn webhook(hook: &mut Value) {
    set_default(hook, "failurePolicy", "Fail");
    set_default(hook, "matchPolicy", "Equivalent");
    set_default(hook, "namespaceSelector", json!({}));
    set_default(hook, "objectSelector", json!({}));
    set_default(hook, "timeoutSeconds", 10);
    each_mut(hook, "/rules").for_each(|rule| set_default(rule, "scope", "*"));
    if let Some(service) = hook.pointer_mut("/clientConfig/service").filter(|s| s.is_object()) {
        set_default(service, "port", 443);
    }
}

fn match_resources(spec: &mut Value, key: &str) {
    let Some(found) = spec.get_mut(key).filter(|m| m.is_object()) else {
        return;
    };
    set_default(found, "matchPolicy", "Equivalent");
    set_default(found, "namespaceSelector", json!({}));
    set_default(found, "objectSelector", json!({}));
    for rules in ["/resourceRules", "/excludeResourceRules"] {
        each_mut(found, rules).for_each(|rule| set_default(rule, "scope", "*"));
    }
}

fn priority_level(level: &mut Value) {
    if let Some(exempt) = level.pointer_mut("/spec/exempt").filter(|e| e.is_object()) {
        set_default(exempt, "nominalConcurrencyShares", 0);
        set_default(exempt, "lendablePercent", 0);
    }
    if let Some(limited) = level.pointer_mut("/spec/limited").filter(|l| l.is_object()) {
        set_default(limited, "nominalConcurrencyShares", 30);
        set_default(limited, "lendablePercent", 0);
        if let Some(queuing) = limited.pointer_mut("/limitResponse/queuing").filter(|q| q.is_object()) {
            for (key, number) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                if queuing.get(key).and_then(Value::as_i64).unwrap_or_default() == 0 {
                    set(queuing, key, number);
                }
            }
        }
    }
}

fn requests(claim: &mut Value, pointer: &str) {
    let exact = |request: &mut Value| {
        set_if_empty(request, "allocationMode", "ExactCount");
        if request.text("/allocationMode") == "ExactCount" && request.int("/count") == 0 {
            set(request, "count", 1);
        }
    };
    for request in each_mut(claim, pointer) {
        if let Some(request) = request.get_mut("exactly").filter(|r| r.is_object()) {
            exact(request);
        }
        each_mut(request, "/firstAvailable").for_each(exact);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_gets_what_it_does_not_say() {
        let mut hooks = json!({"webhooks": [{"name": "a.b.c", "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        let apply = default("admissionregistration.k8s.io/mutatingwebhookconfigurations").unwrap();
        apply(&mut hooks);
        let hook = &hooks["webhooks"][0];
        assert_eq!(hook["timeoutSeconds"], 10);
        assert_eq!(hook["reinvocationPolicy"], "Never");
        assert_eq!(hook["rules"][0]["scope"], "*");
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        let once = hooks.clone();
        apply(&mut hooks);
        assert_eq!(hooks, once);
    }

    #[test]
    fn a_policy_with_egress_rules_is_of_both_types() {
        let mut policy = json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 80}]}]}});
        network_policy(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    }
}
