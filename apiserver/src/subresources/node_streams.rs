//! Requests that are answered by a node or a pod: log, exec, attach, port-forward, proxy. Bytes are passed through.
//!
//! SPDY/3.1 and WebSocket up to v4 go to the kubelet as they are. WebSocket v5 and the tunnel of SPDY in WebSocket become SPDY
//! in [`crate::streams`]. A log over WebSocket is put into frames by [`log_socket`].

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use steersman_admission::Operation;
use steersman_schema::facts::Gvk;
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::kubelet::{Destination, Scheme, forwarded_headers, pass_on};
use crate::query::Query;
use crate::registry::admit::Admission;
use crate::registry::get;
use crate::streams::{remote, tunnel, websocket};
use crate::subresources::log_socket;

/// WebSocket subprotocols that can be passed through.
const PROTOCOLS: &[&str] = &[
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "base64.channel.k8s.io",
    "portforward.k8s.io",
    "v4.base64.portforward.k8s.io",
    "base64.portforward.k8s.io",
    "v4.portforward.k8s.io",
];
/// Bytes of a kubelet's error text that are shown.
const MAX_ERROR_BYTES: usize = 2048;

/// Answers a request for one of these subresources.
///
/// # Errors
/// 400 for bad options, 404 without the object, 500 when the backend cannot be reached.
pub async fn serve(api: &Arc<Api>, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let mut headers = call.headers.clone();
    let upgrade = wants_upgrade(&headers);
    let ours = match target.subresource.as_str() {
        "exec" | "attach" => upgrade && remote::wanted(&headers),
        "portforward" => upgrade && !tunnel::wanted(&headers).is_empty(),
        _ => false,
    };
    if upgrade && !ours && target.subresource != "log" {
        pick_protocol(&mut headers)?;
    }
    admit(api, ticket, target).await?;
    let sub = target.subresource.as_str();
    if sub == "proxy" {
        return super::proxy::serve(api, ticket, target, headers, upgrade).await;
    }
    let pod = get::value(api, target).await?;
    let to = match destination(api, target, &pod, &call.query)? {
        Some(to) => to,
        // Not scheduled yet: there is nothing to read.
        None => return Ok(crate::respond::text(200, "")),
    };
    if sub != "log" && !upgrade {
        return Err(Status::bad_request("Upgrade request required"));
    }
    if ours && sub == "portforward" {
        return tunnel::serve(api, &to, &headers, call.take_upgrade()).await;
    }
    if ours {
        return remote::serve(api, to, options(&call.query), &headers, call.take_upgrade());
    }
    let method = if sub == "log" { Method::GET } else { call.method.clone() };
    let mut request = Request::new(call.take_body());
    *request.method_mut() = method;
    *request.headers_mut() = forwarded_headers(&headers, upgrade && sub != "log");
    if sub == "log" {
        // The log is plain text whatever the client would like of objects.
        request.headers_mut().remove(header::ACCEPT);
        request.headers_mut().remove(header::ACCEPT_ENCODING);
        let answer = api.kubelets.send(&to, request).await?;
        let log = log_answer(answer, target).await?;
        return if upgrade {
            log_socket::answer(log, &headers, call.take_upgrade())
        } else {
            Ok(log)
        };
    }
    let answer = api.kubelets.send(&to, request).await?;
    Ok(pass_on(answer, call.take_upgrade()))
}

/// Admission of a connection: plugins see the options.
async fn admit(api: &Api, ticket: &Authorized, target: &Target) -> Result<(), Status> {
    let Some(sub) = target.resource.facts.subresource(&target.subresource) else {
        return Ok(());
    };
    if target.subresource == "log" {
        return Ok(());
    }
    if ticket.call().query.get("dryRun").is_some() {
        return Err(Status::bad_request("dryRun is not supported"));
    }
    let gvk = Gvk::new(sub.group, sub.version, sub.kind);
    let admission = Admission {
        api,
        ticket,
        target,
        gvk: &gvk,
        operation: Operation::Connect,
        options: Value::Null,
        dry_run: false,
    };
    let options = json!({"apiVersion": gvk.api_version(), "kind": gvk.kind});
    let options = admission.mutate(options, None).await?;
    admission.validate(options, None).await.map(|_| ())
}

/// Whether the client wants to switch protocols.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let has_word = |name, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    has_word(header::CONNECTION, "upgrade") && headers.contains_key(header::UPGRADE)
}

/// Leaves only the WebSocket subprotocols that can be passed through.
fn pick_protocol(headers: &mut HeaderMap) -> Result<(), Status> {
    if !websocket::wanted(headers) {
        return Ok(());
    }
    let offered: Vec<String> = websocket::offered(headers).into_iter().map(str::to_owned).collect();
    let kept: Vec<&str> = offered
        .iter()
        .map(String::as_str)
        .filter(|p| PROTOCOLS.contains(p))
        .collect();
    if kept.is_empty() && !offered.is_empty() {
        return Err(Status::bad_request(format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {PROTOCOLS:?}"
        )));
    }
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if !kept.is_empty()
        && let Ok(value) = HeaderValue::from_str(&kept.join(","))
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok(())
}

/// Where the kubelet answers; `None` for the log of a pod without node.
fn destination(api: &Api, target: &Target, pod: &Value, query: &Query) -> Result<Option<Destination>, Status> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let node = text("/spec/nodeName");
    let (namespace, name) = (&target.namespace, &target.name);
    let (path, parameters) = match target.subresource.as_str() {
        "log" => {
            let container = container(pod, name, query.get("container").unwrap_or_default())?;
            (
                format!("containerLogs/{namespace}/{name}/{container}"),
                log_parameters(query, name)?,
            )
        }
        "portforward" => {
            let ports = query
                .all("ports")
                .map(|port| ("port".to_owned(), port.to_owned()))
                .collect();
            (format!("portForward/{namespace}/{name}"), ports)
        }
        sub => {
            if matches!(text("/status/phase"), "Succeeded" | "Failed") {
                let phase = text("/status/phase");
                return Err(Status::bad_request(format!(
                    "cannot {sub} a container in a completed pod; current phase is {phase}"
                )));
            }
            let container = container(pod, name, query.get("container").unwrap_or_default())?;
            (
                format!("{sub}/{namespace}/{name}/{container}"),
                stream_parameters(sub, query)?,
            )
        }
    };
    if node.is_empty() {
        if target.subresource == "log" {
            return Ok(None);
        }
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let node = steersman_auth::Lister::get(api.lister.as_ref(), "", "nodes", None, node)
        .ok_or_else(|| Status::not_found("", "pods", node))?;
    let (host, port) = api.kubelets.address(&node)?;
    let query = encode(&parameters);
    let path = if query.is_empty() {
        format!("/{path}")
    } else {
        format!("/{path}?{query}")
    };
    Ok(Some(Destination {
        scheme: Scheme::Kubelet,
        host,
        port,
        path,
    }))
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let items = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
    items
        .into_iter()
        .flatten()
        .filter_map(|c| c["name"].as_str())
        .map(str::to_owned)
        .collect()
}

/// The container that is meant, or why none is.
fn container(pod: &Value, name: &str, wanted: &str) -> Result<String, Status> {
    let (containers, init, ephemeral) = (
        names(pod, "containers"),
        names(pod, "initContainers"),
        names(pod, "ephemeralContainers"),
    );
    if !wanted.is_empty() {
        let known = containers.iter().chain(&init).chain(&ephemeral).any(|c| c == wanted);
        return if known {
            Ok(wanted.to_owned())
        } else {
            Err(Status::bad_request(format!(
                "container {wanted} is not valid for pod {name}"
            )))
        };
    }
    match containers.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}"
        ))),
        _ => {
            let all: Vec<&str> = init
                .iter()
                .chain(&containers)
                .chain(&ephemeral)
                .map(String::as_str)
                .collect();
            let all = all.join(" ");
            Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{all}]"
            )))
        }
    }
}

type Parameters = Vec<(String, String)>;

fn log_parameters(query: &Query, name: &str) -> Result<Parameters, Status> {
    use steersman_schema::field::{FieldError, FieldErrors, Path};
    let mut out = Parameters::new();
    let mut errors = FieldErrors::new();
    for key in ["follow", "previous", "timestamps"] {
        if query.flag(key) == Some(true) {
            out.push((key.to_owned(), "true".to_owned()));
        }
    }
    for (key, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        let Some(number) = query.integer(key).map_err(Status::bad_request)? else {
            continue;
        };
        if number < least {
            let detail = format!(
                "must be greater than {}",
                if least == 0 { "or equal to 0" } else { "0" }
            );
            errors.push(FieldError::invalid(&Path::new(key), number, detail));
        }
        out.push((key.to_owned(), number.to_string()));
    }
    if let Some(time) = query.get("sinceTime").filter(|time| !time.is_empty()) {
        if query.get("sinceSeconds").is_some() {
            errors.push(FieldError::forbidden(
                &Path::none(),
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ));
        }
        if time.parse::<jiff::Timestamp>().is_err() {
            return Err(Status::bad_request(format!(
                "parsing time {time:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse"
            )));
        }
        out.push(("sinceTime".to_owned(), time.to_owned()));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "PodLogOptions", name, &errors));
    }
    Ok(out)
}

/// Upstream's defaults: stdout and stderr are on unless the client says otherwise.
fn options(query: &Query) -> remote::Options {
    remote::Options {
        stdin: query.flag("stdin").unwrap_or(false),
        stdout: query.flag("stdout").unwrap_or(true),
        stderr: query.flag("stderr").unwrap_or(true),
        tty: query.flag("tty").unwrap_or(false),
    }
}

fn stream_parameters(sub: &str, query: &Query) -> Result<Parameters, Status> {
    let mut out = Parameters::new();
    let remote::Options {
        stdin,
        stdout,
        stderr,
        tty,
    } = options(query);
    if !stdin && !stdout && !stderr {
        return Err(Status::bad_request(
            "you must specify at least one of stdin, stdout, stderr",
        ));
    }
    for (key, wanted) in [
        ("input", stdin),
        ("output", stdout),
        ("error", stderr && !tty),
        ("tty", tty),
    ] {
        if wanted {
            out.push((key.to_owned(), "1".to_owned()));
        }
    }
    if sub == "exec" {
        let commands: Parameters = query
            .all("command")
            .map(|word| ("command".to_owned(), word.to_owned()))
            .collect();
        if commands.is_empty() {
            return Err(Status::bad_request(
                "you must specify at least 1 command for the container",
            ));
        }
        out.extend(commands);
    }
    Ok(out)
}

fn encode(parameters: &Parameters) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let one = |(key, value): &(String, String)| format!("{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
    parameters.iter().map(one).collect::<Vec<_>>().join("&")
}

/// The kubelet's log, or what it says against giving one.
async fn log_answer(answer: Response<hyper::body::Incoming>, target: &Target) -> Result<Response<Body>, Status> {
    if answer.status().is_success() {
        let (parts, body) = answer.into_parts();
        let mut response = Response::new(body.map_err(std::io::Error::other).boxed_unsync());
        let plain = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            parts.headers.get(header::CONTENT_TYPE).cloned().unwrap_or(plain),
        );
        return Ok(response);
    }
    let code = answer.status().as_u16();
    let text = crate::kubelet::error_text(answer, MAX_ERROR_BYTES).await;
    Err(match code {
        400 => Status::bad_request(text),
        404 => {
            let mut status = Status::not_found("", "pods", &target.name);
            status.message = format!(
                "the server could not find the requested resource ( pods/log {})",
                target.name
            );
            status
        }
        500 => Status::internal(text),
        other => Status::new(
            other,
            "InternalError",
            format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        ),
    })
}
