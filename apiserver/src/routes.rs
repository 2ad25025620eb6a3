//! What a URL asks for, exactly as upstream's `RequestInfo` reads it: authorization, metrics and the handlers all go
//! by the same reading, so that nobody can be allowed one thing and given another.

use http::Method;
use steersman_schema::status::Status;

use crate::query::{Query, unescape};

/// Longest path that is looked at, in bytes.
const MAX_PATH_BYTES: usize = 16 * 1024;

/// A parsed request line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path is below `/api/v1` or `/apis/group/version`.
    pub is_resource: bool,
    /// The decoded path.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`; for non-resource
    /// paths the method in lower case.
    pub verb: String,
    pub group: String,
    pub version: String,
    /// For namespaces themselves it is their own name.
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// Resource, name, subresource and whatever follows.
    pub parts: Vec<String>,
    /// Raw selectors, for authorization (verbs list, watch, deletecollection).
    pub field_selector: String,
    pub label_selector: String,
}

/// Reads a request line.
///
/// # Errors
/// 400 for a path that cannot be decoded or that ends after `/watch`.
pub fn parse(method: &Method, raw_path: &str, query: &Query) -> Result<RequestInfo, Status> {
    if raw_path.len() > MAX_PATH_BYTES {
        return Err(Status::bad_request("the request path is too long"));
    }
    let path = unescape(raw_path).ok_or_else(|| Status::bad_request(format!("invalid URL escape in {raw_path:?}")))?;
    if path.contains('\0') {
        return Err(Status::bad_request("invalid URL escape \"%00\""));
    }
    let mut info = RequestInfo {
        verb: method.as_str().to_ascii_lowercase(),
        ..RequestInfo::default()
    };
    let trimmed = path.trim_matches('/');
    let mut parts: Vec<&str> = if trimmed.is_empty() {
        Vec::new()
    } else {
        trimmed.split('/').collect()
    };
    let grouped = match parts.first() {
        Some(&"api") if parts.len() >= 3 => false,
        Some(&"apis") if parts.len() >= 4 => true,
        _ => {
            info.path = path;
            return Ok(info);
        }
    };
    parts.remove(0);
    if grouped {
        info.group = parts.remove(0).to_owned();
    }
    info.is_resource = true;
    info.version = parts.remove(0).to_owned();
    let by_path = matches!(parts.first(), Some(&"proxy" | &"watch"));
    if by_path {
        if parts.len() < 2 {
            return Err(Status::bad_request(format!(
                "unable to determine kind and namespace from url, {path}"
            )));
        }
        info.verb = parts.remove(0).to_owned();
    } else {
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
    }
    if parts.first() == Some(&"namespaces")
        && let Some(namespace) = parts.get(1)
    {
        info.namespace = (*namespace).to_owned();
        let inside = parts
            .get(2)
            .is_some_and(|third| !matches!(*third, "status" | "finalize"));
        if inside {
            parts.drain(..2);
        }
    }
    info.resource = parts.first().copied().unwrap_or_default().to_owned();
    info.name = parts.get(1).copied().unwrap_or_default().to_owned();
    if info.verb != "proxy" && info.verb != "watch" {
        info.subresource = parts.get(2).copied().unwrap_or_default().to_owned();
    }
    info.parts = parts.iter().map(|part| (*part).to_owned()).collect();
    if info.name.is_empty() && info.verb == "get" {
        info.verb = if query.flag("watch").unwrap_or(false) {
            "watch"
        } else {
            "list"
        }
        .to_owned();
        if let Some(name) = single_name(query.get("fieldSelector").unwrap_or_default()) {
            info.name = name;
        }
    }
    if info.name.is_empty() && info.verb == "delete" {
        info.verb = "deletecollection".to_owned();
    }
    if !by_path && matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
        info.field_selector = query.get("fieldSelector").unwrap_or_default().to_owned();
        info.label_selector = query.get("labelSelector").unwrap_or_default().to_owned();
    }
    info.path = path;
    Ok(info)
}

/// The name that a field selector pins, if it is a usable name.
fn single_name(selector: &str) -> Option<String> {
    let selector = steersman_schema::selector::FieldSelector::parse(selector).ok()?;
    let name = selector.exact("metadata.name")?;
    path_segment_faults(name).is_empty().then(|| name.to_owned())
}

/// Why a name cannot be a segment of a path (upstream: `IsPathSegmentName`).
pub fn path_segment_faults(name: &str) -> Vec<String> {
    match name {
        "." => return vec!["may not be '.'".to_owned()],
        ".." => return vec!["may not be '..'".to_owned()],
        _ => {}
    }
    ['/', '%']
        .into_iter()
        .filter(|c| name.contains(*c))
        .map(|c| format!("may not contain '{c}'"))
        .collect()
}

/// Whether a request may stay open for as long as it likes: no deadline, not counted as in flight.
pub fn is_long_running(info: &RequestInfo) -> bool {
    info.is_resource
        && (matches!(info.verb.as_str(), "watch" | "proxy")
            || matches!(
                info.subresource.as_str(),
                "attach" | "exec" | "proxy" | "log" | "portforward"
            ))
        || info.path.starts_with("/debug/pprof/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, url: &str) -> String {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let info = parse(&method.parse().expect("method"), path, &Query::parse(query)).expect("parses");
        if !info.is_resource {
            return format!("{} {}", info.verb, info.path);
        }
        format!(
            "{} {}/{} ns={} {} name={} sub={}",
            info.verb, info.group, info.version, info.namespace, info.resource, info.name, info.subresource
        )
    }

    #[test]
    fn urls_read_as_upstream_reads_them() {
        let cases = [
            ("GET", "/api/v1/namespaces", "list /v1 ns= namespaces name= sub="),
            (
                "GET",
                "/api/v1/namespaces/other",
                "get /v1 ns=other namespaces name=other sub=",
            ),
            (
                "PUT",
                "/api/v1/namespaces/other/finalize",
                "update /v1 ns=other namespaces name=other sub=finalize",
            ),
            (
                "GET",
                "/api/v1/namespaces/other/pods",
                "list /v1 ns=other pods name= sub=",
            ),
            (
                "GET",
                "/api/v1/namespaces/other/pods/foo",
                "get /v1 ns=other pods name=foo sub=",
            ),
            (
                "HEAD",
                "/api/v1/namespaces/other/pods/foo",
                "get /v1 ns=other pods name=foo sub=",
            ),
            ("GET", "/api/v1/pods?watch=1", "watch /v1 ns= pods name= sub="),
            ("GET", "/api/v1/pods?watch=false", "list /v1 ns= pods name= sub="),
            (
                "GET",
                "/api/v1/pods?fieldSelector=metadata.name%3Dfoo&watch=",
                "watch /v1 ns= pods name=foo sub=",
            ),
            (
                "GET",
                "/api/v1/watch/namespaces/other/pods",
                "watch /v1 ns=other pods name= sub=",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection apps/v1 ns=a deployments name= sub=",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/b/scale",
                "patch apps/v1 ns=a deployments name=b sub=scale",
            ),
            (
                "POST",
                "/api/v1/namespaces/a/pods/b/proxy/x/y",
                "create /v1 ns=a pods name=b sub=proxy",
            ),
            ("GET", "/api/v1", "get /api/v1"),
            ("GET", "/apis/apps/v1", "get /apis/apps/v1"),
            ("GET", "/", "get /"),
            ("POST", "/readyz/etcd", "post /readyz/etcd"),
        ];
        for (method, url, want) in cases {
            assert_eq!(read(method, url), want, "{method} {url}");
        }
    }

    #[test]
    fn bad_escapes_are_refused() {
        for path in ["/api/v1/%", "/api/v1/%2", "/%zz", "/api/v1/pods/%00", "/%ff%fe"] {
            assert!(parse(&Method::GET, path, &Query::default()).is_err(), "{path}");
        }
    }
}
