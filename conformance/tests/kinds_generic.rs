//! Every stable resource that can be written: created, read, listed, patched three ways, replaced, deleted.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use steersman_conformance::{Http, Namespace, eventually};

/// Resource as `kubectl api-resources -o name` prints it, and what an example holds besides type and name.
fn examples() -> Vec<(&'static str, Value)> {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}], "restartPolicy": "Always"}});
    let once = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}], "restartPolicy": "Never"}});
    let selector = json!({"matchLabels": {"a": "b"}});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
    let subject = json!([{"kind": "User", "name": "somebody", "apiGroup": "rbac.authorization.k8s.io"}]);
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "none"});
    let device = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "none"}}]}});
    let rule = json!({"matchConstraints": {"resourceRules": [{"apiGroups": ["none.example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["nothings"]}]}});
    let mut mutating = rule.clone();
    mutating["reinvocationPolicy"] = json!("Never");
    mutating["mutations"] =
        json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}]);
    let mut validating = rule;
    validating["validations"] = json!([{"expression": "true"}]);
    let webhook = json!([{"name": "a.example.com", "clientConfig": {"url": "https://localhost:1/"}, "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore"}]);
    let involved = json!({"kind": "Pod", "name": "p", "apiVersion": "v1"});
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    vec![
        (
            "apiservices.apiregistration.k8s.io",
            json!({"spec": {"group": "none.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10, "service": {"name": "s", "namespace": "default"}, "insecureSkipTLSVerify": true}}),
        ),
        (
            "certificatesigningrequests.certificates.k8s.io",
            json!({"spec": {"request": REQUEST, "signerName": "example.com/nobody", "usages": ["client auth"]}}),
        ),
        (
            "clusterrolebindings.rbac.authorization.k8s.io",
            json!({"roleRef": role, "subjects": subject}),
        ),
        ("clusterroles.rbac.authorization.k8s.io", json!({"rules": []})),
        ("configmaps", json!({"data": {"a": "b"}})),
        ("controllerrevisions.apps", json!({"revision": 1, "data": {}})),
        (
            "cronjobs.batch",
            json!({"spec": {"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": {"template": once}}}}),
        ),
        ("csidrivers.storage.k8s.io", json!({"spec": {"attachRequired": false}})),
        ("csinodes.storage.k8s.io", json!({"spec": {"drivers": []}})),
        (
            "csistoragecapacities.storage.k8s.io",
            json!({"storageClassName": "none"}),
        ),
        (
            "customresourcedefinitions.apiextensions.k8s.io",
            json!({"spec": {"group": "none.example.com", "scope": "Namespaced", "names": {"plural": "nothings", "singular": "nothing", "kind": "Nothing", "listKind": "NothingList"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}}),
        ),
        (
            "daemonsets.apps",
            json!({"spec": {"selector": selector, "template": template}}),
        ),
        (
            "deployments.apps",
            json!({"spec": {"replicas": 0, "selector": selector, "template": template}}),
        ),
        ("deviceclasses.resource.k8s.io", json!({"spec": {}})),
        (
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.9.8.7"}], "ports": [{"port": 80}]}]}),
        ),
        (
            "endpointslices.discovery.k8s.io",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.9.8.7"]}], "ports": [{"port": 80}]}),
        ),
        (
            "events",
            json!({"involvedObject": involved, "reason": "R", "message": "m"}),
        ),
        (
            "events.events.k8s.io",
            json!({"regarding": involved, "reason": "R", "note": "m", "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c.example.com/c", "reportingInstance": "i", "action": "A", "type": "Normal"}),
        ),
        (
            "flowschemas.flowcontrol.apiserver.k8s.io",
            json!({"spec": {"priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 9000}}),
        ),
        (
            "horizontalpodautoscalers.autoscaling",
            json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}, "maxReplicas": 3}}),
        ),
        (
            "ingressclasses.networking.k8s.io",
            json!({"spec": {"controller": "example.com/c"}}),
        ),
        (
            "ingresses.networking.k8s.io",
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        ),
        (
            "ipaddresses.networking.k8s.io",
            json!({"metadata": {"name": "192.0.2.77"}, "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": "kubernetes"}}}),
        ),
        ("jobs.batch", json!({"spec": {"suspend": true, "template": once}})),
        (
            "leases.coordination.k8s.io",
            json!({"spec": {"holderIdentity": "h", "leaseDurationSeconds": 10}}),
        ),
        (
            "limitranges",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "8"}}]}}),
        ),
        (
            "mutatingadmissionpolicies.admissionregistration.k8s.io",
            json!({"spec": mutating}),
        ),
        (
            "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
            json!({"spec": {"policyName": "nothing"}}),
        ),
        (
            "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            json!({"webhooks": webhook}),
        ),
        ("namespaces", json!({})),
        (
            "networkpolicies.networking.k8s.io",
            json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}),
        ),
        ("nodes", json!({"spec": {"unschedulable": true}})),
        ("persistentvolumeclaims", json!({"spec": claim})),
        (
            "persistentvolumes",
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/nothing"}, "storageClassName": "none", "persistentVolumeReclaimPolicy": "Retain"}}),
        ),
        (
            "poddisruptionbudgets.policy",
            json!({"spec": {"minAvailable": 1, "selector": selector}}),
        ),
        (
            "pods",
            json!({"spec": {"schedulerName": "nobody", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "x"}]}}),
        ),
        ("podtemplates", json!({"template": template})),
        ("priorityclasses.scheduling.k8s.io", json!({"value": 7})),
        (
            "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}}),
        ),
        (
            "replicasets.apps",
            json!({"spec": {"replicas": 0, "selector": selector, "template": template}}),
        ),
        (
            "replicationcontrollers",
            json!({"spec": {"replicas": 0, "selector": {"a": "b"}, "template": template}}),
        ),
        ("resourceclaims.resource.k8s.io", json!({"spec": device})),
        (
            "resourceclaimtemplates.resource.k8s.io",
            json!({"spec": {"spec": device}}),
        ),
        (
            "resourcequotas",
            json!({"spec": {"hard": {"count/nothings.none.example.com": "5"}}}),
        ),
        (
            "resourceslices.resource.k8s.io",
            json!({"spec": {"driver": "d.example.com", "allNodes": true, "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
        ),
        (
            "rolebindings.rbac.authorization.k8s.io",
            json!({"roleRef": role, "subjects": subject}),
        ),
        ("roles.rbac.authorization.k8s.io", json!({"rules": []})),
        ("runtimeclasses.node.k8s.io", json!({"handler": "h"})),
        ("secrets", json!({"data": {"a": "Yg=="}})),
        ("serviceaccounts", json!({})),
        (
            "servicecidrs.networking.k8s.io",
            json!({"spec": {"cidrs": ["198.51.100.0/28"]}}),
        ),
        ("services", json!({"spec": {"ports": [{"port": 80}]}})),
        (
            "statefulsets.apps",
            json!({"spec": {"replicas": 0, "serviceName": "s", "selector": selector, "template": template}}),
        ),
        ("storageclasses.storage.k8s.io", json!({"provisioner": "example.com/p"})),
        (
            "validatingadmissionpolicies.admissionregistration.k8s.io",
            json!({"spec": validating}),
        ),
        (
            "validatingadmissionpolicybindings.admissionregistration.k8s.io",
            json!({"spec": {"policyName": "nothing", "validationActions": ["Deny"]}}),
        ),
        (
            "validatingwebhookconfigurations.admissionregistration.k8s.io",
            json!({"webhooks": webhook}),
        ),
        (
            "volumeattachments.storage.k8s.io",
            json!({"spec": {"attacher": "example.com/a", "nodeName": "node-1", "source": {"persistentVolumeName": "pv"}}}),
        ),
        (
            "volumeattributesclasses.storage.k8s.io",
            json!({"driverName": "example.com/d", "parameters": {"a": "b"}}),
        ),
    ]
}

/// A certificate request for `CN=nobody`, which no signer of the cluster is asked to sign.
const REQUEST: &str = include_str!("../manifests/request.base64");

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const JSON: &str = "application/json";

/// What discovery says of a resource.
struct Served {
    /// `plural` or `plural.group`.
    name: String,
    kind: String,
    api_version: String,
    namespaced: bool,
}

/// Resources with all verbs, once each: in the version that discovery prefers.
fn served(http: &Http) -> Vec<Served> {
    let accept = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let groups = ["/api", "/apis"].map(|path| http.send("GET", path, &[accept], &[]).ok());
    let groups = groups
        .iter()
        .flat_map(|list| list["items"].as_array().cloned().unwrap_or_default());
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for group in groups {
        let (name, version) = (text(&group["metadata"]["name"]), &group["versions"][0]);
        let version_name = text(&version["version"]);
        for resource in version["resources"].as_array().into_iter().flatten() {
            if resource["verbs"].as_array().map_or(0, Vec::len) < 7 {
                continue;
            }
            let plural = text(&resource["resource"]);
            found.push(Served {
                name: if name.is_empty() {
                    plural
                } else {
                    format!("{plural}.{name}")
                },
                kind: text(&resource["responseKind"]["kind"]),
                api_version: if name.is_empty() {
                    version_name.clone()
                } else {
                    format!("{name}/{version_name}")
                },
                namespaced: resource["scope"] == "Namespaced",
            });
        }
    }
    found
}

/// Some of these objects have controllers that write them too: what conflicts is tried again.
fn walk(http: &Http, namespace: &str, served: &Served, mut object: Value) {
    let Served {
        name: resource,
        kind,
        api_version,
        namespaced,
    } = served;
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    let name = match (kind.as_str(), object.pointer("/metadata/name")) {
        (_, Some(name)) => name.as_str().unwrap_or_default().to_owned(),
        ("CustomResourceDefinition", _) => "nothings.none.example.com".to_owned(),
        ("APIService", _) => "v1.none.example.com".to_owned(),
        // Events of the two groups are the same objects.
        _ => format!(
            "{}{}-{namespace}",
            kind.to_lowercase(),
            group.split('.').next().unwrap_or_default()
        ),
    };
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    object["metadata"] = json!({"name": name});
    for regarding in ["involvedObject", "regarding"] {
        if object[regarding].is_object() {
            object[regarding]["namespace"] = json!(namespace);
        }
    }
    let root = if api_version.contains('/') {
        format!("/apis/{api_version}")
    } else {
        format!("/api/{api_version}")
    };
    let collection = if *namespaced {
        format!("{root}/namespaces/{namespace}/{plural}")
    } else {
        format!("{root}/{plural}")
    };
    let path = format!("{collection}/{name}");

    let created = http
        .json("POST", &format!("{collection}?fieldValidation=Strict"), JSON, &object)
        .ok();
    assert_eq!(
        (&created["kind"], &created["apiVersion"]),
        (&json!(kind), &json!(api_version)),
        "{path}"
    );
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        assert!(created["metadata"][field].is_string(), "{path} has no {field}");
    }
    assert_eq!(http.json("POST", &collection, JSON, &object).code, 409, "{path} twice");
    let _ = http
        .json("PATCH", &path, MERGE, &json!({"metadata": {"labels": {"merge": "1"}}}))
        .ok();
    let _ = http
        .json(
            "PATCH",
            &path,
            STRATEGIC,
            &json!({"metadata": {"labels": {"strategic": "1"}}}),
        )
        .ok();
    let _ = http
        .json(
            "PATCH",
            &path,
            JSON_PATCH,
            &json!([{"op": "add", "path": "/metadata/labels/json", "value": "1"}]),
        )
        .ok();
    let list = http
        .get(&format!(
            "{collection}?labelSelector=merge,strategic,json&fieldSelector=metadata.name={name}"
        ))
        .ok();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{path}: {list}");
    let table = http
        .send(
            "GET",
            &path,
            &["Accept: application/json;as=Table;g=meta.k8s.io;v=v1"],
            &[],
        )
        .ok();
    let cells = table
        .pointer("/rows/0/cells")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    // Not equality: upstream's rows of IP addresses have a cell more than there are columns.
    assert!(
        cells >= table["columnDefinitions"].as_array().map_or(1, Vec::len),
        "{path}: {table}"
    );
    eventually(&format!("{path} is replaced"), 10, || {
        let mut current = http.get(&path).ok();
        current["metadata"]["annotations"]["replaced"] = json!("1");
        let answer = http.json("PUT", &path, JSON, &current);
        if answer.code == 200 { Ok(()) } else { Err(answer) }
    });
    assert_eq!(
        http.get(&path).ok()["metadata"]["annotations"]["replaced"],
        json!("1"),
        "{path}"
    );
    let watched = http.get(&format!(
        "{collection}?watch=true&timeoutSeconds=1&fieldSelector=metadata.name={name}"
    ));
    assert!(
        watched.body.contains("\"type\":\"ADDED\"") && watched.body.contains(&name),
        "{path}: {watched:?}"
    );
    let _ = http.json("DELETE", &path, JSON, &Value::Null).ok();
    eventually(&format!("{path} is gone"), 60, || {
        let answer = http.get(&path);
        if answer.code == 404 { Ok(()) } else { Err(answer) }
    });
}

#[test]
fn every_stable_resource_lives_through_all_verbs() {
    let ns = Namespace::new("kinds");
    let http = Http::admin(&ns.cluster);
    let served = served(&http);
    let mut examples = examples();
    let known: BTreeSet<&str> = examples.iter().map(|(resource, ..)| *resource).collect();
    let names: BTreeSet<&str> = served.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, known, "the examples are all that discovery lists");
    let mut work = served
        .iter()
        .map(|s| {
            let at = examples
                .iter()
                .position(|(resource, ..)| *resource == s.name)
                .expect("an example");
            (s, examples.swap_remove(at).1)
        })
        .collect::<Vec<_>>();
    // Four walkers with a share each; watches make them wait, not compute.
    let share = work.len().div_ceil(4);
    std::thread::scope(|scope| {
        while !work.is_empty() {
            let mine = work.split_off(work.len().saturating_sub(share));
            let (http, namespace) = (&http, &ns.name);
            scope.spawn(move || {
                mine.into_iter()
                    .for_each(|(served, object)| walk(http, namespace, served, object))
            });
        }
    });
}
