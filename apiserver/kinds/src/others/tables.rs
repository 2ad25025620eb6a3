//! Table columns of kinds without a file of their own.

use crate::table::{AGE, NAME, age, column, selector_cell};
use crate::view::{View, strings};
use crate::{Column, Table, nothing};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

const ADDRESSES_WIDTH: usize = 16;
const HOSTS_MAX: usize = 3;

/// The table of a resource, if it shows more than name and creation time.
pub fn table(id: &str) -> Option<Table> {
    let (columns, row): (&'static [Column], fn(&Value, &Timestamp) -> Vec<Value>) = match id {
        "/persistentvolumes" => (VOLUME, volume),
        "/componentstatuses" => (COMPONENT, |o, _| component(o)),
        "storage.k8s.io/storageclasses" => (STORAGE_CLASS, storage_class),
        "storage.k8s.io/volumeattributesclasses" => (ATTRIBUTES_CLASS, |o, now| {
            vec![own(o), text(o, "/driverName"), age(o, now)]
        }),
        "storage.k8s.io/csinodes" => (CSI_NODE, |o, now| {
            vec![own(o), o.items("/spec/drivers").len().into(), age(o, now)]
        }),
        "storage.k8s.io/csidrivers" => (CSI_DRIVER, driver),
        "storage.k8s.io/volumeattachments" => (ATTACHMENT, |o, now| {
            let attached = o.flag("/status/attached").into();
            let volume = text(o, "/spec/source/persistentVolumeName");
            vec![
                own(o),
                text(o, "/spec/attacher"),
                volume,
                text(o, "/spec/nodeName"),
                attached,
                age(o, now),
            ]
        }),
        "networking.k8s.io/ingresses" => (INGRESS, ingress),
        "networking.k8s.io/ingressclasses" => (INGRESS_CLASS, ingress_class),
        "networking.k8s.io/networkpolicies" => (NETWORK_POLICY, |o, now| {
            vec![own(o), selector_cell(o.at("/spec/podSelector")), age(o, now)]
        }),
        "networking.k8s.io/servicecidrs" => (SERVICE_CIDR, |o, now| {
            vec![own(o), joined(o.items("/spec/cidrs")).into(), age(o, now)]
        }),
        "networking.k8s.io/ipaddresses" => (IP_ADDRESS, ip_address),
        "node.k8s.io/runtimeclasses" => (RUNTIME_CLASS, |o, now| vec![own(o), text(o, "/handler"), age(o, now)]),
        "admissionregistration.k8s.io/validatingwebhookconfigurations"
        | "admissionregistration.k8s.io/mutatingwebhookconfigurations" => (WEBHOOKS, |o, now| {
            vec![own(o), o.items("/webhooks").len().into(), age(o, now)]
        }),
        "admissionregistration.k8s.io/validatingadmissionpolicies" => {
            (VALIDATING, |o, now| policy(o, "/spec/validations", now))
        }
        "admissionregistration.k8s.io/mutatingadmissionpolicies" => {
            (MUTATING, |o, now| policy(o, "/spec/mutations", now))
        }
        "admissionregistration.k8s.io/validatingadmissionpolicybindings"
        | "admissionregistration.k8s.io/mutatingadmissionpolicybindings" => (BINDING, binding),
        "flowcontrol.apiserver.k8s.io/flowschemas" => (FLOW_SCHEMA, flow_schema),
        "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations" => (PRIORITY_LEVEL, priority_level),
        "coordination.k8s.io/leasecandidates" => (CANDIDATE, |o, now| {
            let versions = ["/spec/leaseName", "/spec/binaryVersion", "/spec/emulationVersion"];
            let cells = versions.iter().map(|p| text(o, p));
            [own(o)].into_iter().chain(cells).chain([age(o, now)]).collect()
        }),
        "resource.k8s.io/deviceclasses" | "resource.k8s.io/resourceclaimtemplates" => {
            (NAME_AND_AGE, |o, now| vec![own(o), age(o, now)])
        }
        "resource.k8s.io/resourceclaims" => (CLAIM, |o, now| vec![own(o), claim_state(o).into(), age(o, now)]),
        "resource.k8s.io/resourceslices" => (SLICE, |o, now| {
            let pool = text(o, "/spec/pool/name");
            vec![
                own(o),
                text(o, "/spec/nodeName"),
                text(o, "/spec/driver"),
                pool,
                age(o, now),
            ]
        }),
        "apiregistration.k8s.io/apiservices" => (API_SERVICE, api_service),
        _ => return None,
    };
    Some(Table {
        columns,
        row,
        conditions: nothing::conditions,
    })
}

fn own(object: &Value) -> Value {
    text(object, "/metadata/name")
}

fn text(object: &Value, pointer: &str) -> Value {
    object.text(pointer).into()
}

fn text_or(object: &Value, pointer: &str, otherwise: &str) -> Value {
    object.at(pointer).as_str().unwrap_or(otherwise).into()
}

fn joined(list: &[Value]) -> String {
    strings(list).collect::<Vec<_>>().join(",")
}

/// Whether the annotation that makes a class the default one is there.
fn is_default(object: &Value, annotation: &str) -> bool {
    let all = object.entries("/metadata/annotations");
    all.and_then(|a| a.get(annotation)).is_some_and(|v| v == "true")
}

const VOLUME: &[Column] = &[
    NAME,
    column("Capacity", "string", 0, "The size of the volume."),
    column(
        "Access Modes",
        "string",
        0,
        "The ways in which the volume can be mounted.",
    ),
    column(
        "Reclaim Policy",
        "string",
        0,
        "What happens to the volume when its claim goes.",
    ),
    column(
        "Status",
        "string",
        0,
        "Whether the volume is available, bound to a claim or released.",
    ),
    column("Claim", "string", 0, "The claim that has the volume."),
    column("StorageClass", "string", 0, "StorageClass of the pv"),
    column("VolumeAttributesClass", "string", 0, "VolumeAttributesClass of the pv"),
    column("Reason", "string", 0, "Why the volume is in this state."),
    AGE,
    column(
        "VolumeMode",
        "string",
        1,
        "Whether the volume holds a file system or is a block device.",
    ),
];

fn volume(volume: &Value, now: &Timestamp) -> Vec<Value> {
    let claim = match volume.at("/spec/claimRef") {
        Value::Null => String::new(),
        claim => format!("{}/{}", claim.text("/namespace"), claim.text("/name")),
    };
    let phase = if volume.has("/metadata/deletionTimestamp") {
        "Terminating"
    } else {
        volume.text("/status/phase")
    };
    let class = volume
        .entries("/metadata/annotations")
        .and_then(|a| a.get("volume.beta.kubernetes.io/storage-class"))
        .and_then(Value::as_str);
    vec![
        own(volume),
        text_or(volume, "/spec/capacity/storage", "0"),
        modes(volume.items("/spec/accessModes")).into(),
        text(volume, "/spec/persistentVolumeReclaimPolicy"),
        phase.into(),
        claim.into(),
        class.unwrap_or_else(|| volume.text("/spec/storageClassName")).into(),
        text_or(volume, "/spec/volumeAttributesClassName", "<unset>"),
        text(volume, "/status/reason"),
        age(volume, now),
        text_or(volume, "/spec/volumeMode", "<unset>"),
    ]
}

/// Access modes in short form and fixed order.
fn modes(list: &[Value]) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| list.iter().any(|m| m == mode);
    let found: Vec<&str> = SHORT.iter().filter(|(mode, _)| has(mode)).map(|(_, s)| *s).collect();
    found.join(",")
}

const COMPONENT: &[Column] = &[
    NAME,
    column("Status", "string", 0, "Status of the component conditions"),
    column("Message", "string", 0, "Message of the component conditions"),
    column("Error", "string", 0, "Error of the component conditions"),
];

fn component(status: &Value) -> Vec<Value> {
    let found = status
        .items("/conditions")
        .iter()
        .find(|c| c.text("/type") == "Healthy");
    let (state, message, error) = match found {
        None => ("Unknown", "", ""),
        Some(c) if c.text("/status") == "True" => ("Healthy", c.text("/message"), c.text("/error")),
        Some(c) => ("Unhealthy", c.text("/message"), c.text("/error")),
    };
    vec![own(status), state.into(), message.into(), error.into()]
}

const STORAGE_CLASS: &[Column] = &[
    NAME,
    column("Provisioner", "string", 0, "Who makes volumes of this class."),
    column(
        "ReclaimPolicy",
        "string",
        0,
        "What happens to volumes of this class when their claims go.",
    ),
    column(
        "VolumeBindingMode",
        "string",
        0,
        "When volumes of this class are made and bound.",
    ),
    column(
        "AllowVolumeExpansion",
        "string",
        0,
        "Whether claims of this class may grow.",
    ),
    AGE,
];

fn storage_class(class: &Value, now: &Timestamp) -> Vec<Value> {
    let default = is_default(class, "storageclass.kubernetes.io/is-default-class")
        || is_default(class, "storageclass.beta.kubernetes.io/is-default-class");
    let suffix = if default { " (default)" } else { "" };
    vec![
        format!("{}{suffix}", class.text("/metadata/name")).into(),
        text(class, "/provisioner"),
        text_or(class, "/reclaimPolicy", "Delete"),
        text_or(class, "/volumeBindingMode", "Immediate"),
        class.flag("/allowVolumeExpansion").into(),
        age(class, now),
    ]
}

const ATTRIBUTES_CLASS: &[Column] = &[
    NAME,
    column("DriverName", "string", 0, "The driver that knows the attributes."),
    AGE,
];
const CSI_NODE: &[Column] = &[
    NAME,
    column(
        "Drivers",
        "integer",
        0,
        "Drivers indicates the number of CSI drivers registered on the node",
    ),
    AGE,
];
const CSI_DRIVER: &[Column] = &[
    NAME,
    column(
        "AttachRequired",
        "boolean",
        0,
        "Whether volumes must be attached before they are mounted.",
    ),
    column(
        "PodInfoOnMount",
        "boolean",
        0,
        "Whether the driver is told about the pod.",
    ),
    column(
        "StorageCapacity",
        "boolean",
        0,
        "Whether the scheduler looks at the driver's capacity.",
    ),
    column(
        "TokenRequests",
        "string",
        0,
        "Audiences of tokens that the driver gets.",
    ),
    column(
        "RequiresRepublish",
        "boolean",
        0,
        "Whether the driver is called again and again.",
    ),
    column("Modes", "string", 0, "Kinds of volumes that the driver offers."),
    AGE,
];

fn driver(driver: &Value, now: &Timestamp) -> Vec<Value> {
    let audiences: Vec<&str> = driver
        .items("/spec/tokenRequests")
        .iter()
        .map(|t| t.text("/audience"))
        .collect();
    let modes = joined(driver.items("/spec/volumeLifecycleModes"));
    vec![
        own(driver),
        driver.at("/spec/attachRequired").as_bool().unwrap_or(true).into(),
        driver.flag("/spec/podInfoOnMount").into(),
        driver.flag("/spec/storageCapacity").into(),
        if audiences.is_empty() {
            "<unset>".into()
        } else {
            audiences.join(",").into()
        },
        driver.flag("/spec/requiresRepublish").into(),
        if modes.is_empty() {
            "<none>".into()
        } else {
            modes.into()
        },
        age(driver, now),
    ]
}

const ATTACHMENT: &[Column] = &[
    NAME,
    Column {
        name: "Attacher",
        kind: "string",
        format: "name",
        description: "The driver that attaches.",
        priority: 0,
    },
    column("PV", "string", 0, "The volume."),
    column("Node", "string", 0, "The node to which it is attached."),
    column("Attached", "boolean", 0, "Whether it is attached."),
    AGE,
];

const INGRESS: &[Column] = &[
    NAME,
    column(
        "Class",
        "string",
        0,
        "The name of the IngressClass resource that should be used for additional configuration",
    ),
    column(
        "Hosts",
        "string",
        0,
        "Hosts that incoming requests are matched against before the ingress rule",
    ),
    column(
        "Address",
        "string",
        0,
        "Address is a list containing ingress points for the load-balancer",
    ),
    column("Ports", "string", 0, "Ports of TLS configurations that open"),
    AGE,
];

fn ingress(ingress: &Value, now: &Timestamp) -> Vec<Value> {
    let rules = ingress.items("/spec/rules");
    let hosts: Vec<&str> = rules
        .iter()
        .map(|r| r.text("/host"))
        .filter(|h| !h.is_empty())
        .take(HOSTS_MAX)
        .collect();
    // Upstream counts rules, not hosts, once three hosts are shown.
    let third = rules
        .iter()
        .enumerate()
        .filter(|(_, r)| !r.text("/host").is_empty())
        .nth(HOSTS_MAX - 1);
    let more = third.is_some_and(|(at, _)| rules.len() > at + 1);
    let hosts = match hosts.join(",") {
        none if none.is_empty() => "*".to_string(),
        shown if more => format!("{shown} + {} more...", rules.len() - HOSTS_MAX),
        shown => shown,
    };
    let points: BTreeSet<&str> = ingress
        .items("/status/loadBalancer/ingress")
        .iter()
        .map(|p| {
            if p.text("/ip").is_empty() {
                p.text("/hostname")
            } else {
                p.text("/ip")
            }
        })
        .filter(|p| !p.is_empty())
        .collect();
    let mut address = points.into_iter().collect::<Vec<_>>().join(",");
    if address.len() > ADDRESSES_WIDTH {
        address = format!("{}...", address.get(..ADDRESSES_WIDTH - 3).unwrap_or_default());
    }
    let ports = if ingress.items("/spec/tls").is_empty() {
        "80"
    } else {
        "80, 443"
    };
    vec![
        own(ingress),
        text_or(ingress, "/spec/ingressClassName", "<none>"),
        hosts.into(),
        address.into(),
        ports.into(),
        age(ingress, now),
    ]
}

const INGRESS_CLASS: &[Column] = &[
    NAME,
    column(
        "Controller",
        "string",
        0,
        "Controller that is responsible for handling this class",
    ),
    column(
        "Parameters",
        "string",
        0,
        "A reference to a resource with additional parameters",
    ),
    AGE,
];

fn ingress_class(class: &Value, now: &Timestamp) -> Vec<Value> {
    let suffix = if is_default(class, "ingressclass.kubernetes.io/is-default-class") {
        " (default)"
    } else {
        ""
    };
    let parameters = match class.at("/spec/parameters") {
        Value::Null => "<none>".to_string(),
        p => match p.at("/apiGroup").as_str() {
            Some(group) => format!("{}.{group}/{}", p.text("/kind"), p.text("/name")),
            None => format!("{}/{}", p.text("/kind"), p.text("/name")),
        },
    };
    vec![
        format!("{}{suffix}", class.text("/metadata/name")).into(),
        text(class, "/spec/controller"),
        parameters.into(),
        age(class, now),
    ]
}

const NETWORK_POLICY: &[Column] = &[
    NAME,
    column("Pod-Selector", "string", 0, "The pods to which the policy applies."),
    AGE,
];
const SERVICE_CIDR: &[Column] = &[
    NAME,
    column("CIDRs", "string", 0, "Ranges of addresses for Services."),
    AGE,
];
const IP_ADDRESS: &[Column] = &[NAME, column("ParentRef", "string", 0, "What has the address.")];

/// Upstream gives a third cell, the age, that no column names.
fn ip_address(address: &Value, now: &Timestamp) -> Vec<Value> {
    let parent = match address.at("/spec/parentRef") {
        Value::Null => "<none>".to_string(),
        p => {
            let (group, resource) = (p.text("/group"), p.text("/resource"));
            let dot = if group.is_empty() { "" } else { "." };
            let kind = format!("{resource}{dot}{group}").to_lowercase();
            let place = match p.text("/namespace") {
                "" => String::new(),
                namespace => format!("/{namespace}"),
            };
            format!("{kind}{place}/{}", p.text("/name"))
        }
    };
    vec![own(address), parent.into(), age(address, now)]
}

const RUNTIME_CLASS: &[Column] = &[
    NAME,
    column("Handler", "string", 0, "What the container runtime calls it."),
    AGE,
];
const WEBHOOKS: &[Column] = &[
    NAME,
    column(
        "Webhooks",
        "integer",
        0,
        "Webhooks indicates the number of webhooks registered in this configuration",
    ),
    AGE,
];
const PARAM_KIND: Column = column(
    "ParamKind",
    "string",
    0,
    "ParamKind specifies the kind of resources used to parameterize this policy",
);
const VALIDATING: &[Column] = &[
    NAME,
    column(
        "Validations",
        "integer",
        0,
        "Validations indicates the number of validation rules defined in this configuration",
    ),
    PARAM_KIND,
    AGE,
];
const MUTATING: &[Column] = &[
    NAME,
    column(
        "Mutations",
        "integer",
        0,
        "Mutations indicates the number of mutation rules defined in this configuration",
    ),
    PARAM_KIND,
    AGE,
];

fn policy(policy: &Value, rules: &str, now: &Timestamp) -> Vec<Value> {
    let kind = match policy.at("/spec/paramKind") {
        Value::Null => "<unset>".to_string(),
        kind => format!("{}/{}", kind.text("/apiVersion"), kind.text("/kind")),
    };
    vec![
        own(policy),
        policy.items(rules).len().into(),
        kind.into(),
        age(policy, now),
    ]
}

const BINDING: &[Column] = &[
    NAME,
    column(
        "PolicyName",
        "string",
        0,
        "PolicyName indicates the policy definition which the policy binding binded to",
    ),
    column(
        "ParamRef",
        "string",
        0,
        "ParamRef indicates the param resource which sets the configuration param",
    ),
    AGE,
];

fn binding(binding: &Value, now: &Timestamp) -> Vec<Value> {
    let parameter = binding.at("/spec/paramRef");
    let shown = match (parameter.text("/namespace"), parameter.text("/name")) {
        ("", "") if parameter.has("/selector") => crate::selector::format(parameter.at("/selector")),
        (_, "") => "<unset>".to_string(),
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        own(binding),
        text(binding, "/spec/policyName"),
        shown.into(),
        age(binding, now),
    ]
}

const FLOW_SCHEMA: &[Column] = &[
    NAME,
    column(
        "PriorityLevel",
        "string",
        0,
        "The priority level of requests that match.",
    ),
    column("MatchingPrecedence", "string", 0, "Lower numbers are tried first."),
    column("DistinguisherMethod", "string", 0, "How flows are told apart."),
    AGE,
    column(
        "MissingPL",
        "string",
        0,
        "references a broken or non-existent PriorityLevelConfiguration",
    ),
];

fn flow_schema(schema: &Value, now: &Timestamp) -> Vec<Value> {
    let conditions = schema.items("/status/conditions");
    let dangling = conditions.iter().find(|c| c.text("/type") == "Dangling");
    vec![
        own(schema),
        text(schema, "/spec/priorityLevelConfiguration/name"),
        schema.int("/spec/matchingPrecedence").into(),
        text_or(schema, "/spec/distinguisherMethod/type", "<none>"),
        age(schema, now),
        dangling.map_or("?", |c| c.text("/status")).into(),
    ]
}

const PRIORITY_LEVEL: &[Column] = &[
    NAME,
    column("Type", "string", 0, "Whether requests of this level are limited."),
    column(
        "NominalConcurrencyShares",
        "string",
        0,
        "The level's share of the server's seats.",
    ),
    column("Queues", "string", 0, "How many queues the level has."),
    column("HandSize", "string", 0, "How many queues a flow may choose from."),
    column(
        "QueueLengthLimit",
        "string",
        0,
        "How many requests may wait in one queue.",
    ),
    AGE,
];

fn priority_level(level: &Value, now: &Timestamp) -> Vec<Value> {
    let number = |pointer: &str| match level.at(pointer) {
        Value::Null => "<none>".into(),
        number => number.clone(),
    };
    let queuing = "/spec/limited/limitResponse/queuing";
    vec![
        own(level),
        text(level, "/spec/type"),
        number("/spec/limited/nominalConcurrencyShares"),
        number(&format!("{queuing}/queues")),
        number(&format!("{queuing}/handSize")),
        number(&format!("{queuing}/queueLengthLimit")),
        age(level, now),
    ]
}

const CANDIDATE: &[Column] = &[
    NAME,
    column("LeaseName", "string", 0, "The lease for which it stands."),
    column("BinaryVersion", "string", 0, "The version of the binary."),
    column("EmulationVersion", "string", 0, "The version that it emulates."),
    AGE,
];
const NAME_AND_AGE: &[Column] = &[NAME, AGE];
const CLAIM: &[Column] = &[
    NAME,
    column(
        "State",
        "string",
        0,
        "A summary of the current state (allocated, pending, reserved, etc.).",
    ),
    AGE,
];

fn claim_state(claim: &Value) -> String {
    let (deleted, allocated) = (
        claim.has("/metadata/deletionTimestamp"),
        claim.has("/status/allocation"),
    );
    let mut states = Vec::new();
    if deleted {
        states.push("deleted");
    }
    if allocated {
        states.push("allocated");
        if !claim.items("/status/reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    states.join(",")
}

const SLICE: &[Column] = &[
    NAME,
    column("Node", "string", 0, "The node that has the devices."),
    column("Driver", "string", 0, "Whose devices they are."),
    column("Pool", "string", 0, "The pool to which they belong."),
    AGE,
];
const API_SERVICE: &[Column] = &[
    NAME,
    column(
        "Service",
        "string",
        0,
        "The reference to the service that hosts this API endpoint.",
    ),
    column("Available", "string", 0, "Whether this service is available."),
    AGE,
];

fn api_service(service: &Value, now: &Timestamp) -> Vec<Value> {
    let host = match service.at("/spec/service") {
        Value::Null => "Local".to_string(),
        s => format!("{}/{}", s.text("/namespace"), s.text("/name")),
    };
    let conditions = service.items("/status/conditions");
    let available = match conditions.iter().find(|c| c.text("/type") == "Available") {
        None => "Unknown".to_string(),
        Some(c) if c.text("/status") != "True" && !c.text("/reason").is_empty() => {
            format!("{} ({})", c.text("/status"), c.text("/reason"))
        }
        Some(c) => c.text("/status").to_string(),
    };
    vec![own(service), host.into(), available.into(), age(service, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cells(id: &str, object: &Value) -> Vec<Value> {
        let mut cells = (table(id).unwrap().row)(object, &Timestamp::UNIX_EPOCH);
        cells.retain(|c| c != "<unknown>");
        cells
    }

    #[test]
    fn rows_say_what_upstream_says() {
        let class = json!({"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "p"});
        assert_eq!(
            cells("storage.k8s.io/storageclasses", &class),
            vec![
                json!("fast (default)"),
                json!("p"),
                json!("Delete"),
                json!("Immediate"),
                json!(false)
            ]
        );
        let rule = |h: &str| json!({ "host": h });
        let ingress = json!({"metadata": {"name": "i"}, "spec": {"rules": [rule("a"), rule("b"), rule("c"), rule("d")], "tls": [{}]},
            "status": {"loadBalancer": {"ingress": [{"hostname": "very.long.example.com"}]}}});
        assert_eq!(
            cells("networking.k8s.io/ingresses", &ingress),
            vec![
                json!("i"),
                json!("<none>"),
                json!("a,b,c + 1 more..."),
                json!("very.long.exa..."),
                json!("80, 443")
            ]
        );
        let service = json!({"metadata": {"name": "v1.x"}, "spec": {"service": {"namespace": "n", "name": "s"}},
            "status": {"conditions": [{"type": "Available", "status": "False", "reason": "Gone"}]}});
        assert_eq!(
            cells("apiregistration.k8s.io/apiservices", &service),
            vec![json!("v1.x"), json!("n/s"), json!("False (Gone)")]
        );
    }
}
