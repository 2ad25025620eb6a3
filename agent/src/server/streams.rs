//! exec, attach, port-forward and run.
//!
//! The runtime gives a one-time URL of its streaming server; the caller's upgrade request is repeated there and both
//! connections are joined byte by byte. Frames (SPDY/3.1, WebSocket up to v4) are none of our business; newer WebSocket
//! protocols have become SPDY at the API server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use steersman_cri::v1;
use tokio::net::TcpStream;

use super::{Body, Server, query, text};
use crate::pod;

/// WebSocket subprotocols that runtimes speak. Newer ones are refused, and clients fall back.
const WEBSOCKET: [&str; 7] = [
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "portforward.k8s.io",
    "v4.channel.portforward.k8s.io",
    "",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    Exec,
    Attach,
    PortForward,
    /// Not a stream: runs a command and answers with its output.
    Run,
}

/// `rest` is what follows the pod's name: `[uid/]container`, or `[uid]` for a port-forward.
pub async fn serve(
    server: &Arc<Server>,
    request: Request<Incoming>,
    kind: Session,
    namespace: &str,
    name: &str,
    rest: &[&str],
) -> Response<Body> {
    let Some(found) = server.pods.find(namespace, name) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let (uid, container) = match (kind, rest) {
        (Session::PortForward, []) => (None, ""),
        (Session::PortForward, [uid]) => (Some(*uid), ""),
        (Session::Exec | Session::Attach | Session::Run, [container]) => (None, *container),
        (Session::Exec | Session::Attach | Session::Run, [uid, container]) => (Some(*uid), *container),
        _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    if uid.is_some_and(|uid| uid != pod::uid(&found)) {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    }
    let pairs = query::pairs(request.uri().query().unwrap_or_default());
    let target = match kind {
        Session::PortForward => ready_sandbox(server, pod::uid(&found))
            .await
            .and_then(|id| id.ok_or_else(|| format!("pod not found (\"{name}_{namespace}\")"))),
        _ => running_container(server, pod::uid(&found), container)
            .await
            .and_then(|id| {
                id.ok_or_else(|| match kind {
                    Session::Attach => format!("container {container} not found in pod {name}_{namespace}"),
                    _ => format!("container not found ({container:?})"),
                })
            }),
    };
    let target = match target {
        Ok(target) => target,
        Err(e) => return text(StatusCode::INTERNAL_SERVER_ERROR, &e),
    };
    let url = match kind {
        Session::Run => return run(server, &target, &pairs).await,
        Session::Exec => exec(server, target, &pairs).await,
        Session::Attach => {
            // Whether a process has a terminal was decided at its start.
            let tty = pod::find_container(&found, container).is_some_and(|(_, c)| c.tty == Some(true));
            attach(server, target, &pairs, tty).await
        }
        Session::PortForward => {
            let ports = pairs
                .iter()
                .filter(|(n, _)| n == "port")
                .filter_map(|(_, v)| v.parse().ok())
                .collect();
            server
                .context
                .runtime
                .port_forward(&target, ports)
                .await
                .map_err(|e| e.to_string())
        }
    };
    match url {
        Ok(url) => join(request, &url).await,
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &e),
    }
}

async fn exec(server: &Server, container_id: String, pairs: &[(String, String)]) -> Result<String, String> {
    let tty = query::flag(pairs, "tty");
    let request = v1::ExecRequest {
        container_id,
        cmd: command(pairs),
        tty,
        stdin: query::flag(pairs, "input"),
        stdout: query::flag(pairs, "output"),
        // A terminal has one output.
        stderr: query::flag(pairs, "error") && !tty,
    };
    server.context.runtime.exec(request).await.map_err(|e| e.to_string())
}

async fn attach(
    server: &Server,
    container_id: String,
    pairs: &[(String, String)],
    tty: bool,
) -> Result<String, String> {
    let request = v1::AttachRequest {
        container_id,
        tty,
        stdin: query::flag(pairs, "input"),
        stdout: query::flag(pairs, "output"),
        stderr: query::flag(pairs, "error") && !tty,
    };
    server.context.runtime.attach(request).await.map_err(|e| e.to_string())
}

fn command(pairs: &[(String, String)]) -> Vec<String> {
    pairs
        .iter()
        .filter(|(n, _)| n == "command")
        .map(|(_, v)| v.clone())
        .collect()
}

async fn run(server: &Server, id: &str, pairs: &[(String, String)]) -> Response<Body> {
    let words: Vec<String> = query::get(pairs, "cmd")
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    match server.context.runtime.exec_sync(id, &words, Duration::ZERO).await {
        Ok(done) => {
            let mut output = done.stdout;
            output.extend_from_slice(&done.stderr);
            let code = if done.exit_code == 0 {
                StatusCode::OK
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            };
            super::with_type(code, "text/plain; charset=utf-8", output.into())
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

/// The running container of a name, if there is one.
async fn running_container(server: &Server, uid: &str, name: &str) -> Result<Option<String>, String> {
    let label_selector = [(crate::runtime::labels::POD_UID.to_owned(), uid.to_owned())].into();
    let filter = v1::ContainerFilter {
        label_selector,
        ..Default::default()
    };
    let all = server
        .context
        .runtime
        .list_containers(filter)
        .await
        .map_err(|e| e.to_string())?;
    let live = v1::ContainerState::ContainerRunning as i32;
    let own = all
        .into_iter()
        .filter(|c| c.state == live && c.metadata.as_ref().is_some_and(|m| m.name == name));
    Ok(own.max_by_key(|c| c.created_at).map(|c| c.id))
}

async fn ready_sandbox(server: &Server, uid: &str) -> Result<Option<String>, String> {
    let label_selector = [(crate::runtime::labels::POD_UID.to_owned(), uid.to_owned())].into();
    let filter = v1::PodSandboxFilter {
        label_selector,
        ..Default::default()
    };
    let all = server
        .context
        .runtime
        .list_sandboxes(filter)
        .await
        .map_err(|e| e.to_string())?;
    let ready = all
        .into_iter()
        .find(|s| s.state == v1::PodSandboxState::SandboxReady as i32);
    Ok(ready.map(|s| s.id))
}

/// Repeats the request at `url` and joins the two connections.
async fn join(mut request: Request<Incoming>, url: &str) -> Response<Body> {
    let wants = |name: &str| {
        request
            .headers()
            .get(UPGRADE)
            .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(name.as_bytes()))
    };
    if wants("websocket") {
        let header = request
            .headers()
            .get("sec-websocket-protocol")
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        if !header.split(',').map(str::trim).any(|p| WEBSOCKET.contains(&p)) {
            let message = format!("unable to upgrade: none of the subprotocols {header:?} is supported");
            return text(StatusCode::BAD_REQUEST, &message);
        }
    } else if !wants("spdy/3.1") {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    let upstream = match repeat(&request, url).await {
        Ok(upstream) => upstream,
        Err(e) => {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("failed to reach the runtime's streaming server: {e}"),
            );
        }
    };
    if upstream.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = upstream.into_parts();
        return Response::from_parts(parts, body.map_err(std::io::Error::other).boxed());
    }
    let mut answer = Response::new(
        Empty::new()
            .map_err(|never: std::convert::Infallible| match never {})
            .boxed(),
    );
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = upstream.headers().clone();
    let ours = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (Ok(theirs), Ok(ours)) = tokio::join!(hyper::upgrade::on(upstream), ours) else {
            return;
        };
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(ours), &mut TokioIo::new(theirs)).await;
    });
    answer
}

/// Headers that the streaming server needs to agree on a protocol.
const PASSED: [&str; 6] = [
    "x-stream-protocol-version",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "origin",
];

async fn repeat(request: &Request<Incoming>, url: &str) -> Result<Response<Incoming>, String> {
    let uri: hyper::Uri = url.parse().map_err(|e| format!("{url:?}: {e}"))?;
    let host = uri.host().ok_or("the URL has no host")?.to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port))
        .await
        .map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    // A WebSocket opens with GET; SPDY with the method that the caller used.
    let method = if request.method() == Method::GET {
        Method::GET
    } else {
        Method::POST
    };
    let mut out = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, format!("{host}:{port}"));
    out = out.header(CONNECTION, "Upgrade");
    if let Some(upgrade) = request.headers().get(UPGRADE) {
        out = out.header(UPGRADE, upgrade);
    }
    for name in PASSED {
        for value in request.headers().get_all(name) {
            out = out.header(name, value);
        }
    }
    let out = out.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    sender.send_request(out).await.map_err(|e| e.to_string())
}
