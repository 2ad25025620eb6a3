//! Which right on the node a path needs.

use http::Method;
use steersman_runtime::serve::Gate;
use steersman_runtime::serve::gate::{Identity, Refusal, Wanted};

/// Lets the request pass if the caller has one of the rights for it: the fine one, or `nodes/proxy`.
///
/// # Errors
/// The refusal for the last right that was tried.
pub async fn check(gate: &Gate, who: &Identity, method: &Method, path: &str, node: &str) -> Result<(), Refusal> {
    let mut result = Ok(());
    for subresource in subresources(path) {
        let wanted = Wanted::Resource {
            verb: verb(method).into(),
            group: String::new(),
            resource: "nodes".into(),
            subresource: (*subresource).into(),
            name: node.into(),
        };
        result = gate.authorize(who, wanted).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// Any of these suffices.
fn subresources(path: &str) -> &'static [&'static str] {
    let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    if below("/stats") {
        &["stats"]
    } else if below("/metrics") {
        &["metrics"]
    } else if below("/logs") {
        &["log"]
    } else if below("/checkpoint") {
        &["checkpoint"]
    } else if below("/pods") || below("/runningpods") {
        &["pods", "proxy"]
    } else if below("/healthz") {
        &["healthz", "proxy"]
    } else if below("/configz") {
        &["configz", "proxy"]
    } else {
        &["proxy"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_needs_upstreams_right() {
        for (path, rights) in [
            ("/containerLogs/a/b/c", &["proxy"] as &[&str]),
            ("/exec/a/b/c", &["proxy"]),
            ("/stats/summary", &["stats"]),
            ("/metrics/resource", &["metrics"]),
            ("/metricsx", &["proxy"]),
            ("/pods", &["pods", "proxy"]),
            ("/healthz/ping", &["healthz", "proxy"]),
        ] {
            assert_eq!(subresources(path), rights, "{path}");
        }
    }
}
