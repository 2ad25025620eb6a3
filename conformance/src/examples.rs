//! A valid object of every stable resource, as small as it may be, and what discovery says of each.
//!
//! Used to walk every resource through every verb, and to fill a cluster with one object of each kind. None of them makes
//! anything happen that lasts: no replicas, no pods that are scheduled.

use serde_json::{Value, json};

use crate::Http;

/// What discovery says of a resource.
#[derive(Clone, Debug)]
pub struct Served {
    /// `plural` or `plural.group`.
    pub name: String,
    pub kind: String,
    pub api_version: String,
    pub namespaced: bool,
}

impl Served {
    /// The path of the resource's objects, in a namespace if it has namespaces.
    #[must_use]
    pub fn collection(&self, namespace: &str) -> String {
        let api = if self.api_version.contains('/') {
            "/apis"
        } else {
            "/api"
        };
        let plural = self.name.split('.').next().unwrap_or_default();
        if self.namespaced {
            format!("{api}/{}/namespaces/{namespace}/{plural}", self.api_version)
        } else {
            format!("{api}/{}/{plural}", self.api_version)
        }
    }

    /// Gives an example its type and a name that is unique to `namespace`, unless only one name is valid; returns the name.
    pub fn complete(&self, object: &mut Value, namespace: &str) -> String {
        let group = self.name.split('.').nth(1).unwrap_or_default();
        let name = match (self.kind.as_str(), object.pointer("/metadata/name")) {
            (_, Some(name)) => name.as_str().unwrap_or_default().to_owned(),
            ("CustomResourceDefinition", _) => "nothings.none.example.com".to_owned(),
            ("APIService", _) => "v1.none.example.com".to_owned(),
            // Events of the two groups are the same objects.
            (kind, _) => format!("{}{group}-{namespace}", kind.to_lowercase()),
        };
        object["apiVersion"] = json!(self.api_version);
        object["kind"] = json!(self.kind);
        object["metadata"] = json!({"name": name});
        for regarding in ["involvedObject", "regarding"] {
            if object[regarding].is_object() {
                object[regarding]["namespace"] = json!(namespace);
            }
        }
        name
    }
}

/// Resources with all verbs, once each: in the version that discovery prefers.
#[must_use]
pub fn served(http: &Http) -> Vec<Served> {
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

/// Resource as `kubectl api-resources -o name` prints it, and what an example holds besides type and name.
#[must_use]
#[allow(clippy::too_many_lines)] // a list
pub fn examples() -> Vec<(&'static str, Value)> {
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
            json!({"spec": {"attacher": "a.example.com", "nodeName": "node-1", "source": {"persistentVolumeName": "pv"}}}),
        ),
        (
            "volumeattributesclasses.storage.k8s.io",
            json!({"driverName": "example.com/d", "parameters": {"a": "b"}}),
        ),
    ]
}

/// A certificate request for `CN=nobody`, which no signer of the cluster is asked to sign.
const REQUEST: &str = include_str!("../manifests/request.base64");
