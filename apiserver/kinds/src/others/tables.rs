//! Table columns of kinds without a file of their own.

mod network;
mod requests;
mod storage;

use network::{INGRESS, INGRESS_CLASS, IP_ADDRESS, NETWORK_POLICY, SERVICE_CIDR, ingress, ingress_class, ip_address};
use requests::{
    BINDING, FLOW_SCHEMA, MUTATING, PRIORITY_LEVEL, VALIDATING, WEBHOOKS, binding, flow_schema, policy, priority_level,
};
use storage::{
    ATTACHMENT, ATTRIBUTES_CLASS, CSI_DRIVER, CSI_NODE, STORAGE_CLASS, VOLUME, driver, storage_class, volume,
};

use crate::table::{AGE, NAME, age, column, selector_cell};
use crate::view::{View, strings};
use crate::{Column, Table, nothing};
use jiff::Timestamp;
use serde_json::Value;

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

const RUNTIME_CLASS: &[Column] = &[
    NAME,
    column("Handler", "string", 0, "What the container runtime calls it."),
    AGE,
];

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
