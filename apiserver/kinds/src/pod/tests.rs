//! Texts of whole pods, as upstream's API server prints them.

use super::*;

fn pod(spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": spec});
    defaults::pod(&mut pod);
    pod
}

fn texts(errors: &FieldErrors) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn one(extra: Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "i:1"}]});
    if let (Some(spec), Some(extra)) = (spec.as_object_mut(), extra.as_object()) {
        spec.extend(extra.clone());
    }
    pod(spec)
}

fn container(extra: Value) -> Value {
    let mut c = json!({"name": "c", "image": "i:1"});
    if let (Some(c), Some(extra)) = (c.as_object_mut(), extra.as_object()) {
        c.extend(extra.clone());
    }
    pod(json!({ "containers": [c] }))
}

#[test]
fn faults_of_specs_have_upstreams_words() {
    for (pod, want) in [
        (pod(json!({})), "spec.containers: Required value"),
        (
            pod(json!({"containers": [{"name": "c"}]})),
            "spec.containers[0].image: Required value",
        ),
        (
            pod(json!({"containers": [{"name": "c", "image": "i:1"}, {"name": "c", "image": "i:1"}]})),
            "spec.containers[1].name: Duplicate value: \"c\"",
        ),
        (
            one(json!({"restartPolicy": "Sometimes"})),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            one(json!({"dnsPolicy": "None"})),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            one(json!({"activeDeadlineSeconds": 0})),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            one(json!({"volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]})),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        (
            one(json!({"volumes": [{"name": "v", "hostPath": {"path": "/a/../b"}}]})),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            one(json!({"tolerations": [{"operator": "Equal"}]})),
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        ),
        (
            one(json!({"ephemeralContainers": [{"name": "e", "image": "i:1"}]})),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            one(json!({"nodeName": "x", "schedulingGates": [{"name": "g"}]})),
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ),
        (
            container(json!({"volumeMounts": [{"name": "x", "mountPath": "/x"}]})),
            "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
        ),
        (
            container(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            container(json!({"resources": {"requests": {"example.com/gpu": "1"}}})),
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            container(json!({"ports": [{"containerPort": 70000}]})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            container(json!({"livenessProbe": {"successThreshold": 2, "exec": {"command": ["x"]}}})),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            container(json!({"livenessProbe": {}})),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            container(json!({"securityContext": {"runAsUser": -1}})),
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            one(json!({"securityContext": {"sysctls": [{"name": "net.a", "value": "1"}]}, "hostNetwork": true})),
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.a\": may not be specified when 'hostNetwork' is true",
        ),
        (
            pod(
                json!({"containers": [{"name": "c", "image": "i:1"}], "initContainers": [
                {"name": "i", "image": "i:1", "readinessProbe": {"exec": {"command": ["x"]}}}]}),
            ),
            "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            one(
                json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}),
            ),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            one(
                json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "x y"}]}}}),
            ),
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"x y\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ),
    ] {
        assert_eq!(texts(&(KIND.validate)(&pod)), [want]);
    }
}

#[test]
fn a_stored_pod_changes_only_where_it_may() {
    let old = pod(json!({"containers": [{"name": "c", "image": "i:1"}], "activeDeadlineSeconds": 100}));
    let change = |f: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        f(&mut new);
        texts(&(KIND.validate_update)(&new, &old))
    };
    assert!(change(&|p| p["spec"]["containers"][0]["image"] = json!("i:2")).is_empty());
    assert!(change(&|p| p["spec"]["activeDeadlineSeconds"] = json!(50)).is_empty());
    assert!(change(&|p| p["spec"]["tolerations"] = json!([{"key": "k", "operator": "Exists"}])).is_empty());
    assert_eq!(
        change(&|p| p["spec"]["activeDeadlineSeconds"] = json!(200)),
        ["spec.activeDeadlineSeconds: Invalid value: 200: must be less than or equal to previous value"]
    );
    let got = change(&|p| p["spec"]["hostname"] = json!("h"));
    assert!(
        got[0].starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"),
        "{got:?}"
    );
    assert!(got[0].contains("+ \"Hostname\": \"h\""), "{got:?}");
    assert_eq!(
        change(&|p| p["spec"]["containers"] = json!([])),
        [
            "spec.containers: Required value",
            "spec.containers: Forbidden: pod updates may not add or remove containers"
        ]
    );
}

#[test]
fn templates_for_claims_have_no_identity() {
    let template = json!({"metadata": {"uid": "u", "name": "n", "finalizers": []}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}, "limits": {"storage": "1500m"}}}});
    let pod = one(json!({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]}));
    let at = "spec.volumes[0].ephemeral.volumeClaimTemplate";
    assert_eq!(
        texts(&(KIND.validate)(&pod))[..3],
        ["name", "uID", "finalizers"].map(|key| format!("{at}.metadata.{key}: Forbidden: cannot be set"))
    );
    let fraction =
        format!("{at}.spec.resources.limits[storage]: fractional byte value \"1500m\" is invalid, must be an integer");
    assert!(
        (KIND.warnings)(&pod, None).contains(&fraction),
        "{:?}",
        (KIND.warnings)(&pod, None)
    );
}

#[test]
fn amounts_in_a_status_are_rounded_up_to_a_thousandth() {
    let mut pod = one(json!({}));
    pod["status"] = json!({"allocatedResources": {"cpu": "1n"}, "containerStatuses": [{"name": "c", "resources": {"limits": {"cpu": "1u"}}}]});
    defaults::pod(&mut pod);
    assert_eq!(pod["status"]["allocatedResources"]["cpu"], "1m");
    assert_eq!(
        pod["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"],
        "1m"
    );
}

#[test]
fn a_kubelet_does_not_tell_of_image_volumes_behind_a_closed_gate() {
    let old = one(json!({}));
    let mut new = old.clone();
    new["status"] = json!({"containerStatuses": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "volumeStatus": {}}]}]});
    status::prepare(&mut new, &old, &Context::default());
    assert_eq!(
        new["status"]["containerStatuses"][0]["volumeMounts"],
        json!([{"name": "v", "mountPath": "/v"}])
    );
}

#[test]
fn lists_and_maps_that_are_empty_change_nothing_in_a_stored_pod() {
    let old = one(json!({}));
    let mut new = old.clone();
    new["spec"]["initContainers"] = json!([]);
    new["spec"]["nodeSelector"] = json!({});
    new["spec"]["containers"][0]["resources"] = json!({"limits": {}, "requests": {}});
    assert!((KIND.validate_update)(&new, &old).is_empty());
    // Where something else changes, the maps are shown as they were sent, and the list is made anew.
    new["spec"]["hostname"] = json!("h");
    let got = texts(&(KIND.validate_update)(&new, &old));
    assert!(got[0].contains("+ \"NodeSelector\": {},"), "{got:?}");
    assert!(!got[0].contains("InitContainers"), "{got:?}");
}

#[test]
fn of_new_gates_with_one_name_the_last_is_named() {
    let old = one(json!({}));
    let mut new = old.clone();
    new["spec"]["schedulingGates"] = json!([{"name": "a"}, {"name": "a"}]);
    let got = texts(&(KIND.validate_update)(&new, &old));
    let gates: Vec<&String> = got.iter().filter(|t| t.contains("only deletion is allowed")).collect();
    assert_eq!(
        gates,
        ["spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new scheduling gate 'a'"]
    );
}

#[test]
fn a_gated_pod_may_be_given_an_affinity_to_nodes() {
    let old = one(json!({"schedulingGates": [{"name": "g"}]}));
    let term = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "Exists"}]}]});
    let mut new = old.clone();
    new["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
    assert!((KIND.validate_update)(&new, &old).is_empty());
    new["spec"]["affinity"]["podAffinity"] = json!({});
    let got = texts(&(KIND.validate_update)(&new, &old));
    assert!(got[0].contains("+  \"PodAffinity\": {"), "{got:?}");
}

#[test]
fn ephemeral_containers_are_only_added() {
    let mut old = pod(
        json!({"containers": [{"name": "c", "image": "i:1"}], "ephemeralContainers": [{"name": "e", "image": "i:1"}]}),
    );
    old["metadata"]["labels"] = json!({"a": "b"});
    let mut new = old.clone();
    new["spec"]["nodeName"] = json!("x");
    new["metadata"]["labels"] = json!({});
    new["spec"]["ephemeralContainers"] = json!([{"name": "f", "image": "i:1", "ports": [{"containerPort": 1}]}]);
    let context = Context {
        now: String::new(),
        user: String::new(),
        ..Context::default()
    };
    update::prepare_ephemeral(&mut new, &old, &context);
    assert_eq!(new["metadata"]["labels"], json!({"a": "b"}));
    assert!(new["spec"].get("nodeName").is_none());
    new["spec"]["ephemeralContainers"][0]["resources"] = json!({"limits": {}});
    defaults::pod(&mut new);
    assert_eq!(
        texts(&update::validate_ephemeral(&new, &old)),
        [
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n",
        ]
    );
}

#[test]
fn a_resize_changes_cpu_and_memory_only() {
    let old = container(json!({"resources": {"requests": {"cpu": "1"}}}));
    let mut new = old.clone();
    new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2");
    assert!(update::validate_resize(&new, &old).is_empty());
    new["spec"]["containers"][0]["resources"] = json!({});
    assert_eq!(
        texts(&update::validate_resize(&new, &old)),
        [
            "spec: Invalid value: \"\": Pod QOS Class may not change as a result of resizing",
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
        ]
    );
}

#[test]
fn grace_is_zero_for_pods_that_do_not_run() {
    let running =
        json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
    assert_eq!(grace(&running, None), 30);
    assert_eq!(grace(&running, Some(5)), 5);
    assert_eq!(grace(&running, Some(-5)), 1);
    assert_eq!(grace(&json!({"spec": {"terminationGracePeriodSeconds": 30}}), None), 0);
    assert_eq!(
        grace(
            &json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}}),
            Some(7)
        ),
        0
    );
}

#[test]
fn an_ended_container_does_not_come_back_when_its_policy_says_never() {
    let ended = json!({"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 0}}}]});
    let back = json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]});
    for (policy, faults) in [("Never", 1), ("OnFailure", 1), ("Always", 0)] {
        let mut old = one(json!({"restartPolicy": policy}));
        let mut new = old.clone();
        old["status"] = ended.clone();
        new["status"] = back.clone();
        assert_eq!(status::validate(&new, &old).len(), faults, "{policy}");
    }
}

#[test]
fn a_gated_pod_is_born_waiting() {
    let mut pod = one(json!({"schedulingGates": [{"name": "g"}]}));
    let context = Context {
        now: String::new(),
        user: String::new(),
        ..Context::default()
    };
    prepare_create(&mut pod, &context);
    assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
}
