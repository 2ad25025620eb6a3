#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_pods_facts_are_upstreams() {
    let pod = facts().kind("", "v1", "Pod").unwrap();
    assert_eq!((&*pod.name, &*pod.go), ("io.k8s.api.core.v1.Pod", "v1.Pod"));
    let Shape::Struct(spec) = &pod.field("spec").unwrap().ty.shape else {
        panic!("spec is a struct")
    };
    let containers = spec.field("containers").unwrap();
    assert_eq!(
        (containers.number, &*containers.ty.go, containers.required),
        (2, "[]v1.Container", true)
    );
    assert_eq!(containers.patch_merge_key, Some("name"));
    let Shape::List(container) = &containers.ty.shape else {
        panic!("containers is a list")
    };
    let Shape::Struct(container) = &container.shape else {
        panic!("a container is a struct")
    };
    let ports = container.field("ports").unwrap();
    assert_eq!(ports.list, Some(ListType::Map(["containerPort", "protocol"].into())));
    let policy = container.field("imagePullPolicy").unwrap();
    assert_eq!(policy.enum_values(), ["Always", "IfNotPresent", "Never"]);
    assert_eq!(&*policy.ty.go, "v1.PullPolicy");
}

#[test]
fn inline_fields_are_found_beside_their_siblings() {
    let volume = facts().named("io.k8s.api.core.v1.Volume").unwrap();
    assert_eq!(volume.field("configMap").unwrap().number, 19);
    let rule = facts()
        .named("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations")
        .unwrap();
    assert_eq!(rule.field("apiGroups").unwrap().number, 1);
    assert!(rule.field("").is_none());
}

#[test]
fn every_resource_and_its_storage_has_a_type() {
    assert_eq!(facts().resources().len(), 95);
    for r in facts().resources() {
        let kind = facts().kind(r.group, r.version, r.kind);
        assert!(kind.is_some(), "{r:?}");
        let list = format!("{}List", r.kind);
        assert!(
            !r.verbs.contains(&"list") || facts().kind(r.group, r.version, &list).unwrap().is_list(),
            "{r:?}"
        );
        if r.stored() && r.group != "apiextensions.k8s.io" {
            assert!(facts().kind(r.storage.0, r.storage.1, r.kind).is_some(), "{r:?}");
        }
        for s in &r.subresources {
            assert!(facts().kind(s.group, s.version, s.kind).is_some(), "{s:?}");
        }
    }
}

#[test]
fn odd_keys_are_upstreams() {
    let key = |group, version, plural| facts().resource(group, version, plural).unwrap().key_prefix.as_str();
    assert_eq!(key("", "v1", "nodes"), "/registry/minions");
    assert_eq!(key("", "v1", "services"), "/registry/services/specs");
    assert_eq!(key("networking.k8s.io", "v1", "ingresses"), "/registry/ingress");
    assert_eq!(key("apps", "v1", "deployments"), "/registry/deployments");
    assert_eq!(
        facts()
            .resource("autoscaling", "v1", "horizontalpodautoscalers")
            .unwrap()
            .storage,
        ("autoscaling", "v2")
    );
}

#[test]
fn meta_kinds_are_known_in_every_group_version() {
    for (group, version, kind) in [
        ("", "v1", "Status"),
        ("apps", "v1", "DeleteOptions"),
        ("meta.k8s.io", "v1beta1", "Table"),
    ] {
        assert!(facts().kind(group, version, kind).is_some(), "{group}/{version} {kind}");
    }
    assert!(facts().kind("apps", "v1", "Status").is_none());
}
