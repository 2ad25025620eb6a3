//! `…/proxy`: any request to a pod, to a service's endpoint, or to a node's kubelet. Links in what they answer are made to
//! lead back here (`links.rs`).

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;
use steersman_auth::Lister;
use steersman_schema::field::quote;
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::kubelet::{Destination, Scheme, forwarded_headers, pass_on};
use crate::subresources::links::{Page, Place};

/// Permissions that a backend gives to pages of other origins are not the API server's to give.
const FOREIGN: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// `[scheme:]name[:port]`, as the URL names a backend.
struct Name<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

/// Answers a proxied request.
///
/// # Errors
/// 404 without the object, 503 without an endpoint, 500 when the backend cannot be reached.
pub async fn serve(
    api: &Arc<Api>,
    ticket: &Authorized,
    target: &Target,
    headers: HeaderMap,
    upgrade: bool,
) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let name = split(&target.name).ok_or_else(|| {
        Status::bad_request(format!(
            "invalid {} request {}",
            target.resource.facts.singular,
            quote(&target.name)
        ))
    })?;
    let (scheme, host, port) = match target.resource.plural() {
        "pods" => pod(api, target, &name)?,
        "services" => service(api, target, &name)?,
        _ => node(api, &name)?,
    };
    let asked = call.uri.path();
    let reads = matches!(call.method, Method::GET | Method::HEAD);
    let query = call.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    if reads && !upgrade && !asked.ends_with('/') && rest_of(asked) == "/" {
        // Relative links of the root page would otherwise lead beside it.
        return redirect(&format!("{asked}/{query}"));
    }
    let rest = rest_of(asked);
    let prefix = asked.strip_suffix(&rest).unwrap_or(asked).to_owned();
    let path = format!("{rest}{query}");
    let mut request = Request::new(call.take_body());
    *request.method_mut() = call.method.clone();
    *request.headers_mut() = forwarded_headers(&headers, upgrade);
    if let Some(length) = call.headers.get(http::header::CONTENT_LENGTH) {
        request
            .headers_mut()
            .insert(http::header::CONTENT_LENGTH, length.clone());
    }
    if let Ok(uri) = HeaderValue::from_str(asked) {
        request.headers_mut().insert("x-forwarded-uri", uri);
    }
    if accepts_pages(&headers) {
        // Links can only be rewritten in what can be read.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
    let place = Place {
        prefix,
        backend: format!("{}:{port}", bracketed(&host)),
        // HTTP/2 has no Host header.
        asked: call
            .uri
            .authority()
            .map_or(text_of(&headers, header::HOST), |a| a.as_str())
            .to_owned(),
    };
    let to = Destination {
        scheme,
        host,
        port,
        path,
    };
    let answer = api
        .kubelets
        .send(&to, request)
        .await
        .map_err(|status| Status::service_unavailable(status.message))?;
    let switched = answer.status() == http::StatusCode::SWITCHING_PROTOCOLS;
    let answer = pass_on(answer, call.take_upgrade());
    Ok(if switched {
        answer
    } else {
        back(answer, place, &call.method)
    })
}

fn redirect(to: &str) -> Result<Response<Body>, Status> {
    let location = HeaderValue::from_str(to).map_err(|error| Status::bad_request(error.to_string()))?;
    let mut response = Response::new(crate::body::empty());
    *response.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

fn text_of(headers: &HeaderMap, name: HeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn accepts_pages(headers: &HeaderMap) -> bool {
    text_of(headers, header::ACCEPT).contains("text/html")
}

/// An address as it stands before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// The answer with its links leading here.
fn back(mut answer: Response<Body>, place: Place, method: &Method) -> Response<Body> {
    for name in &FOREIGN {
        answer.headers_mut().remove(name);
    }
    let location = text_of(answer.headers(), header::LOCATION).to_owned();
    if !location.is_empty() {
        if let Some(Ok(new)) = place.link(&location).map(|new| HeaderValue::from_str(&new)) {
            answer.headers_mut().insert(header::LOCATION, new);
        }
        return answer;
    }
    let media = text_of(answer.headers(), header::CONTENT_TYPE)
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    let encoded = !text_of(answer.headers(), header::CONTENT_ENCODING).is_empty();
    if media != "text/html" || encoded || method == Method::HEAD {
        return answer;
    }
    answer.headers_mut().remove(header::CONTENT_LENGTH);
    answer.map(|body| rewritten(body, Page::new(place)))
}

fn rewritten(body: Body, page: Page) -> Body {
    let pieces = futures::stream::unfold(Some((body, page)), |state| async move {
        let (mut body, mut page) = state?;
        loop {
            return match body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    Some((Ok(Frame::data(Bytes::from(page.piece(&data)))), Some((body, page))))
                }
                Some(Err(error)) => Some((Err(error), None)),
                None => Some((Ok(Frame::data(Bytes::from(page.end()))), None)),
            };
        }
    });
    StreamBody::new(pieces.boxed()).boxed_unsync()
}

fn split(text: &str) -> Option<Name<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] if !name.is_empty() => Some(Name {
            scheme: "",
            name,
            port: "",
        }),
        [name, port] if !name.is_empty() => Some(Name { scheme: "", name, port }),
        [scheme @ ("" | "http" | "https"), name, port] if !name.is_empty() => Some(Name { scheme, name, port }),
        _ => None,
    }
}

/// What follows `/proxy` in the path, undecoded, with a leading slash.
fn rest_of(path: &str) -> String {
    // …/namespaces/N/pods/NAME/proxy/REST and …/nodes/NAME/proxy/REST: the first `proxy` after a name.
    let segments: Vec<&str> = path.split('/').collect();
    let named = if segments.get(3) == Some(&"namespaces") { 7 } else { 5 };
    let before: usize = segments.iter().take(named + 1).map(|segment| segment.len() + 1).sum();
    if segments.len() > named {
        return format!("/{}", path.get(before..).unwrap_or_default());
    }
    "/".to_owned()
}

fn scheme_of(text: &str) -> Scheme {
    if text == "https" { Scheme::Https } else { Scheme::Http }
}

fn pod(api: &Api, target: &Target, name: &Name<'_>) -> Result<(Scheme, String, u16), Status> {
    let found = api
        .lister
        .get("", "pods", Some(&target.namespace), name.name)
        .ok_or_else(|| Status::not_found("", "pods", name.name))?;
    let ip = found
        .pointer("/status/podIP")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if ip.is_empty() {
        return Err(Status::bad_request("address not allowed"));
    }
    let port = if name.port.is_empty() {
        let ports = found
            .pointer("/spec/containers")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let first = ports
            .filter_map(|c| c.pointer("/ports/0/containerPort"))
            .find_map(Value::as_u64);
        first.unwrap_or(80).to_string()
    } else {
        name.port.to_owned()
    };
    let port = port
        .parse()
        .map_err(|_| Status::bad_request(format!("invalid port {}", quote(&port))))?;
    Ok((scheme_of(name.scheme), ip.to_owned(), port))
}

fn node(api: &Api, name: &Name<'_>) -> Result<(Scheme, String, u16), Status> {
    let found = api
        .lister
        .get("", "nodes", None, name.name)
        .ok_or_else(|| Status::not_found("", "nodes", name.name))?;
    let (host, port) = api.kubelets.address(&found)?;
    if name.port.is_empty() || name.port == port.to_string() {
        return Ok((Scheme::Kubelet, host, port));
    }
    let port = name
        .port
        .parse()
        .map_err(|_| Status::bad_request(format!("invalid port {}", quote(name.port))))?;
    Ok((scheme_of(name.scheme), host, port))
}

fn service(api: &Api, target: &Target, name: &Name<'_>) -> Result<(Scheme, String, u16), Status> {
    let found = api
        .lister
        .get("", "services", Some(&target.namespace), name.name)
        .ok_or_else(|| Status::not_found("", "services", name.name))?;
    let ports = found
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let wanted = if name.port.is_empty() {
        ports.first()
    } else {
        let number = name.port.parse::<u64>().ok();
        let is = |port: &&Value| {
            port["name"].as_str() == Some(name.port) || number.is_some() && port["port"].as_u64() == number
        };
        ports.iter().find(is)
    };
    let Some(wanted) = wanted else {
        return Err(Status::service_unavailable(format!(
            "no service port {} found for service {}",
            quote(name.port),
            quote(name.name)
        )));
    };
    let port_name = wanted["name"].as_str().unwrap_or_default();
    let slices = api
        .lister
        .list("discovery.k8s.io", "endpointslices", Some(&target.namespace));
    let mut candidates = Vec::new();
    for slice in slices.iter().filter(|slice| {
        slice
            .pointer("/metadata/labels/kubernetes.io~1service-name")
            .and_then(Value::as_str)
            == Some(name.name)
    }) {
        let ports = slice["ports"].as_array().into_iter().flatten();
        let Some(port) = ports
            .filter(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .find_map(|p| p["port"].as_u64())
        else {
            continue;
        };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let ready = endpoint
                .pointer("/conditions/ready")
                .and_then(Value::as_bool)
                .unwrap_or(true);
            if let Some(address) = endpoint
                .pointer("/addresses/0")
                .and_then(Value::as_str)
                .filter(|_| ready)
            {
                candidates.push((address.to_owned(), port));
            }
        }
    }
    let none = || Status::service_unavailable(format!("no endpoints available for service {}", quote(name.name)));
    if candidates.is_empty() {
        return Err(none());
    }
    let (host, port) = candidates.swap_remove(rand::random::<u64>() as usize % candidates.len());
    Ok((scheme_of(name.scheme), host, u16::try_from(port).map_err(|_| none())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn links_of_a_backend_lead_back_through_the_proxy() {
        let place = Place {
            prefix: "/p/proxy".to_owned(),
            backend: "10.0.0.1:80".to_owned(),
            asked: "h".to_owned(),
        };
        let answer = |media: &'static str| {
            let mut answer = Response::new(crate::body::full("<a href=/x>"));
            answer
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
            answer
                .headers_mut()
                .insert(header::CONTENT_LENGTH, HeaderValue::from_static("11"));
            answer
                .headers_mut()
                .insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            answer
        };
        let page = back(answer("text/html; charset=utf-8"), place.clone(), &Method::GET);
        assert!(page.headers().get(header::CONTENT_LENGTH).is_none());
        assert!(page.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
        let text = page.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(text, "<a href=\"/p/proxy/x\">");
        let plain = back(answer("text/plain"), place.clone(), &Method::GET);
        assert_eq!(
            plain.into_body().collect().await.expect("a body").to_bytes(),
            "<a href=/x>"
        );
        let mut moved = answer("text/html");
        moved
            .headers_mut()
            .insert(header::LOCATION, HeaderValue::from_static("/elsewhere"));
        let moved = back(moved, place, &Method::GET);
        assert_eq!(moved.headers()[header::LOCATION], "/p/proxy/elsewhere");
    }

    #[test]
    fn the_rest_of_the_path_is_passed_on_as_it_is() {
        let cases = [
            ("/api/v1/namespaces/n/pods/a/proxy", "/"),
            ("/api/v1/namespaces/n/pods/a/proxy/", "/"),
            ("/api/v1/namespaces/n/pods/a:80/proxy/x/y%20z", "/x/y%20z"),
            ("/api/v1/nodes/a/proxy/stats/summary", "/stats/summary"),
            ("/api/v1/namespaces/proxy/pods/proxy/proxy/proxy", "/proxy"),
        ];
        for (path, want) in cases {
            assert_eq!(rest_of(path), want, "{path}");
        }
    }
}
