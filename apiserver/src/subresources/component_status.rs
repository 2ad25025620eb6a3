//! `componentstatuses`: deprecated, never stored, still read by old tools. Says whether the store answers.

use http::Response;
use serde_json::{Value, json};
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::{negotiate, registry::transform, respond};

/// The one component that the server itself can speak for.
const ETCD: &str = "etcd-0";

/// Answers GET of one or of all.
///
/// # Errors
/// 404 for other components.
pub fn serve(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let output = negotiate::output(&call.headers, &call.query, false)?;
    call.warn("v1 ComponentStatus is deprecated in v1.19+");
    let (status, message) = if api.store_health.is_good() {
        ("True", "ok")
    } else {
        ("False", "not reachable")
    };
    let etcd = json!({
        "apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": ETCD},
        "conditions": [{"type": "Healthy", "status": status, "message": message}],
    });
    let resource = &target.resource;
    if !target.name.is_empty() {
        if target.name != ETCD {
            return Err(target.not_found());
        }
        let value = transform::object(resource, etcd, &output, &call.query, call.now)?;
        return respond::object(&output, 200, &value);
    }
    let value: Value = match output.transform {
        negotiate::Transform::Table(version) => {
            transform::table(resource, json!({}), vec![etcd], version, &call.query, call.now, true)?
        }
        _ => json!({"apiVersion": "v1", "kind": "ComponentStatusList", "metadata": {}, "items": [etcd]}),
    };
    respond::object(&output, 200, &value)
}
