//! Each check in upstream's words, and what the labels of a namespace mean.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::checks::{details, faults};
use super::policy::{Level, Policy, Standard};
use crate::Operation::{Create, Update};
use crate::Request;
use crate::tests::{World, request};

fn standard(level: Level, minor: Option<u32>) -> Standard {
    Standard { level, minor }
}

fn said(level: Level, spec: Value) -> String {
    details(&faults(standard(level, None), &json!({"metadata": {}, "spec": spec})))
}

/// A container that breaks nothing.
fn good() -> Value {
    json!({"name": "c", "image": "i", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}})
}

fn with(pointer: &str, value: Value) -> Value {
    let mut container = good();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    container.pointer_mut(parent).unwrap()[key] = value;
    json!({"containers": [container]})
}

#[test]
fn a_plain_pod_breaks_the_restricted_standard_in_four_ways() {
    assert_eq!(
        said(Level::Restricted, json!({"containers": [{"name": "a"}, {"name": "b"}]})),
        "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(said(Level::Restricted, json!({"containers": [good()]})), "");
    assert_eq!(said(Level::Baseline, json!({"containers": [{"name": "a"}]})), "");
}

#[test]
fn each_check_says_what_upstream_says() {
    for (spec, expected) in [
        (
            with("/securityContext/privileged", json!(true)),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            with("/securityContext/capabilities/add", json!(["SYS_ADMIN", "CHOWN"])),
            "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            json!({"hostNetwork": true, "hostIPC": true, "containers": [good()]}),
            "host namespaces (hostNetwork=true, hostIPC=true)",
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}], "containers": [good()]}),
            "hostPath volumes (volume \"v\")",
        ),
        (
            with("/ports", json!([{"hostPort": 80}, {"hostPort": 443}])),
            "hostPort (container \"c\" uses hostPorts 443, 80)",
        ),
        (
            with("/livenessProbe", json!({"httpGet": {"host": "h"}})),
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"h\")",
        ),
        (
            with("/securityContext/procMount", json!("Unmasked")),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            with("/securityContext/seLinuxOptions", json!({"type": "x", "user": "u"})),
            "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
        ),
        (
            with("/securityContext/seccompProfile", json!({"type": "Unconfined"})),
            "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}, "containers": [good()]}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            with("/securityContext/appArmorProfile", json!({"type": "Unconfined"})),
            "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"windowsOptions": {"hostProcess": true}}, "containers": [good()]}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ] {
        assert_eq!(said(Level::Baseline, spec), expected);
    }
    for (spec, expected) in [
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "s", "secret": {}}], "containers": [good()]}),
            "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")",
        ),
        (
            json!({"securityContext": {"runAsUser": 0}, "containers": [good()]}),
            "runAsUser=0 (pod must not set runAsUser=0)",
        ),
    ] {
        assert_eq!(said(Level::Restricted, spec), expected);
    }
}

#[test]
fn older_versions_of_the_standards_ask_for_what_they_asked_then() {
    let pod = json!({"metadata": {}, "spec": with("/livenessProbe", json!({"httpGet": {"host": "h"}}))});
    assert!(faults(standard(Level::Baseline, Some(33)), &pod).is_empty());
    assert_eq!(faults(standard(Level::Baseline, Some(99)), &pod).len(), 1);
}

fn namespace(labels: Value) -> Value {
    json!({"metadata": {"name": "ns", "labels": labels}})
}

#[test]
fn labels_say_the_policy_and_faulty_ones_enforce_the_strictest() {
    let (policy, faults) = Policy::of(&namespace(
        json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30"}),
    ));
    assert!(faults.is_empty());
    assert_eq!(
        (policy.enforce.to_string(), policy.warn.to_string()),
        ("baseline:v1.30".into(), "baseline:v1.30".into())
    );
    let (policy, faults) = Policy::of(&namespace(
        json!({"pod-security.kubernetes.io/enforce": "nope", "pod-security.kubernetes.io/warn-version": "v1.07"}),
    ));
    assert_eq!(policy.enforce.level, Level::Restricted);
    assert_eq!(
        faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"nope\": must be one of privileged, baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.07\": must be \"latest\" or \"v1.x\"",
        ]
    );
}

#[tokio::test]
async fn pods_are_refused_and_templates_warned_about() {
    let mut world = World::default();
    world.put(
        "",
        "namespaces",
        namespace(json!({"pod-security.kubernetes.io/enforce": "baseline"})),
    );
    let chain = world.chain(&["PodSecurity"]);
    let spec = json!({"hostPID": true, "containers": [{"name": "c", "image": "i"}]});
    let pod = Request {
        object: Some(json!({"metadata": {"name": "p"}, "spec": spec})),
        ..request(Create, "", "pods", "ns", "p")
    };
    let refused = chain.validate(&pod).await.expect_err("refused");
    assert_eq!(
        refused.to_string(),
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"
    );
    let labelled = Request {
        old: Some(Arc::new(pod.object.clone().unwrap())),
        ..Request {
            operation: Update,
            ..pod.clone()
        }
    };
    assert!(chain.validate(&labelled).await.is_ok());
    let deployment = Request {
        object: Some(json!({"spec": {"template": {"spec": spec}}})),
        ..request(Create, "apps", "deployments", "ns", "d")
    };
    assert!(chain.validate(&deployment).await.is_ok());
    assert_eq!(
        deployment.warnings.take(),
        ["would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"]
    );
}

proptest! {
    #[test]
    fn a_stricter_level_never_allows_more(host in any::<bool>(), privileged in any::<bool>(), user in prop::option::of(0i64..2), minor in 0u32..40) {
        let mut container = good();
        container["securityContext"]["privileged"] = privileged.into();
        let pod = json!({"metadata": {}, "spec": {"hostNetwork": host, "securityContext": {"runAsUser": user}, "containers": [container]}});
        let count = |level| faults(standard(level, Some(minor)), &pod).len();
        prop_assert_eq!(count(Level::Privileged), 0);
        prop_assert!(count(Level::Baseline) <= count(Level::Restricted));
        prop_assert_eq!(count(Level::Baseline), usize::from(host) + usize::from(privileged));
    }
}
