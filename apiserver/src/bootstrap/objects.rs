//! The objects that every cluster has, as values.

use serde_json::{Value, json};
use steersman_schema::status::Status;

use crate::api::Api;
use crate::call::{Authorized, Target, seconds};
use crate::options::{FieldValidation, WriteOptions};
use crate::registry::object;
use crate::registry::update::Change;
use crate::routes::RequestInfo;
use crate::services::{Services, first_address};

fn of_kind(kind: &str) -> Vec<Value> {
    steersman_auth::bootstrap::objects()
        .into_iter()
        .filter(|object| object["kind"] == kind)
        .collect()
}

/// `default`, `kube-system`, `kube-public`, `kube-node-lease`.
pub fn namespaces() -> Vec<Value> {
    of_kind("Namespace")
}

/// The two system priority classes.
pub fn priority_classes() -> Vec<Value> {
    of_kind("PriorityClass")
}

/// The range that `--service-cluster-ip-range` names.
pub fn service_cidr(services: &Services) -> Value {
    let cidrs: Vec<String> = services.ranges.iter().map(ToString::to_string).collect();
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}})
}

/// Says that the default range is ready, as nobody else does.
pub async fn mark_cidr_ready(api: &Api) -> Result<(), Status> {
    let Some(resource) = api.resources.find("networking.k8s.io", "v1", "servicecidrs") else {
        return Ok(());
    };
    let info = RequestInfo {
        is_resource: true,
        verb: "update".to_owned(),
        group: "networking.k8s.io".to_owned(),
        version: "v1".to_owned(),
        resource: "servicecidrs".to_owned(),
        subresource: "status".to_owned(),
        name: "kubernetes".to_owned(),
        ..RequestInfo::default()
    };
    let target = Target::of(resource.clone(), &info);
    // Another server has said so before: what exists is only read.
    if let Some(found) = api.cache.get(&target.key())
        && is_ready(&object::value(&target.resource, &found)?)
    {
        return Ok(());
    }
    let ticket = Authorized::own(info);
    let options = WriteOptions {
        dry_run: false,
        field_manager: "kube-apiserver".to_owned(),
        field_validation: FieldValidation::Ignore,
        force: false,
    };
    let change = Change {
        api,
        ticket: &ticket,
        target: &target,
        options: &options,
        gvk: &target.resource.gvk,
        options_kind: "UpdateOptions",
        may_create: false,
        applies: false,
    };
    let now = seconds(ticket.call().now);
    change
        .run(|old| {
            let made = old.map(|old| {
                let mut new = (*old).clone();
                if !is_ready(&new) {
                    new["status"] = json!({"conditions": [{
                        "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now,
                        "message": "Kubernetes default Service CIDR is ready",
                    }]});
                }
                new
            });
            std::future::ready(made.ok_or_else(|| target.not_found()))
        })
        .await
        .map(|_| ())
}

fn is_ready(cidr: &Value) -> bool {
    let conditions = cidr.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|list| list.iter().any(|c| c["type"] == "Ready"))
}

/// `default/kubernetes`: the API server itself, under the first address of the range.
pub fn kubernetes_service(api: &Api) -> Value {
    let ip = api
        .services
        .ranges
        .first()
        .map(|range| first_address(range).to_string())
        .unwrap_or_default();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "sessionAffinity": "None",
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": api.options.serving.secure_port}],
        },
    })
}

/// What extension servers need to authenticate the users whom we pass on.
///
/// # Errors
/// 500 when a file cannot be read any more.
pub fn authentication_config(api: &Api) -> Result<Vec<Value>, Status> {
    let flags = &api.options.authentication;
    let read = |file: &std::path::PathBuf| {
        std::fs::read_to_string(file).map_err(|error| Status::internal(format!("{}: {error}", file.display())))
    };
    let mut data = serde_json::Map::new();
    if let Some(file) = &flags.client_ca_file {
        data.insert("client-ca-file".into(), read(file)?.into());
    }
    if let Some(file) = &flags.requestheader_client_ca_file {
        data.insert("requestheader-client-ca-file".into(), read(file)?.into());
        let lists = [
            ("requestheader-allowed-names", &flags.requestheader_allowed_names),
            ("requestheader-username-headers", &flags.requestheader_username_headers),
            ("requestheader-uid-headers", &flags.requestheader_uid_headers),
            ("requestheader-group-headers", &flags.requestheader_group_headers),
            (
                "requestheader-extra-headers-prefix",
                &flags.requestheader_extra_headers_prefix,
            ),
        ];
        for (key, list) in lists {
            if list.is_empty() && key == "requestheader-uid-headers" {
                continue;
            }
            data.insert(key.into(), json!(list).to_string().into());
        }
    }
    if data.is_empty() {
        return Ok(Vec::new());
    }
    let metadata = json!({"name": "extension-apiserver-authentication", "namespace": "kube-system"});
    Ok(vec![
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}),
    ])
}
