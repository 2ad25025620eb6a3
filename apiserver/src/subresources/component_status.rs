//! `componentstatuses`: deprecated, never stored, still read by people and old tools. Asks the controller manager and the
//! scheduler of this machine for their health, as upstream, and says whether the store answers.

use std::time::Duration;

use http::header;
use http::{Request, Response};
use serde_json::{Value, json};
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::{self, Body};
use crate::call::{Authorized, Target};
use crate::kubelet::{self, Destination, Scheme};
use crate::{negotiate, registry::transform, respond};

const ETCD: &str = "etcd-0";
/// Names and ports of the programs that are asked.
const PROGRAMS: [(&str, u16); 2] = [("controller-manager", 10257), ("scheduler", 10259)];
/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of its answer that are shown.
const MAX_ANSWER: usize = 2048;

/// Answers GET of one or of all.
///
/// # Errors
/// 404 for other components.
pub async fn serve(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let output = negotiate::output(&call.headers, &call.query, false)?;
    call.warn("v1 ComponentStatus is deprecated in v1.19+");
    let wanted = |name: &str| target.name.is_empty() || target.name == name;
    let asked = PROGRAMS.into_iter().filter(|(name, _)| wanted(name));
    let mut items = futures::future::join_all(asked.map(|(name, port)| async move {
        let (good, message) = ask(api, port).await;
        component(name, good, &message)
    }))
    .await;
    if wanted(ETCD) {
        let good = api.store_health.is_good();
        items.insert(
            items.len().min(1),
            component(ETCD, good, if good { "ok" } else { "not reachable" }),
        );
    }
    let resource = &target.resource;
    if !target.name.is_empty() {
        let item = items.pop().ok_or_else(|| target.not_found())?;
        let value = transform::object(resource, item, &output, &call.query, call.now)?;
        return respond::object(&output, 200, &value);
    }
    let value: Value = match output.transform {
        negotiate::Transform::Table(version) => {
            transform::table(resource, json!({}), items, version, &call.query, call.now, true)?
        }
        _ => json!({"apiVersion": "v1", "kind": "ComponentStatusList", "metadata": {}, "items": items}),
    };
    respond::object(&output, 200, &value)
}

fn component(name: &str, good: bool, message: &str) -> Value {
    let status = if good { "True" } else { "False" };
    json!({
        "apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": status, "message": message}],
    })
}

/// Whether the program behind a port of this machine says that it is well, and its words.
async fn ask(api: &Api, port: u16) -> (bool, String) {
    let to = Destination {
        scheme: Scheme::Https,
        host: "127.0.0.1".into(),
        port,
        path: "/healthz".into(),
    };
    let failed = |why: &str| (false, format!("Get \"https://127.0.0.1:{port}/healthz\": {why}"));
    let mut request = Request::new(body::empty());
    request
        .headers_mut()
        .insert(header::ACCEPT, header::HeaderValue::from_static("*/*"));
    let answer = async {
        let answer = api.kubelets.send(&to, request).await?;
        let code = answer.status();
        Ok::<_, Status>((code, kubelet::error_text(answer, MAX_ANSWER).await))
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok((code, text))) if code.is_success() => (true, text),
        Ok(Ok((code, _))) => (false, format!("HTTP probe failed with statuscode: {}", code.as_u16())),
        Ok(Err(status)) => failed(status.message.trim_start_matches("Internal error occurred: ")),
        Err(_) => failed("context deadline exceeded"),
    }
}
