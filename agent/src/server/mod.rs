//! The agent's own HTTPS API on port 10250: logs, exec, pods, figures.
//!
//! Callers: the API server (for `kubectl logs`, `exec`, `port-forward`) and collectors of metrics. Every request except
//! none is authenticated (client certificate or TokenReview) and authorized (SubjectAccessReview on `nodes/…`) before
//! its path is looked at. Streams are passed through to the runtime's own streaming server; no frame is parsed here.

mod access;
mod health;
mod logs;
mod page;
mod query;
mod routes;
mod stats;
mod streams;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use steersman_runtime::serve::{Gate, tls};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::KubeletConfiguration;
use crate::context::Context;
use crate::node::machine::Machine;
use crate::pods::Pods;
use crate::stats::Figures;

pub use health::serve as serve_health;

/// Log followers and exec sessions each hold one.
const MAX_CONNECTIONS: usize = 2048;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The body of an answer.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// What requests are answered from.
pub struct Server {
    pub context: Arc<Context>,
    pub pods: Arc<Pods>,
    pub gate: Gate,
    pub config: Arc<KubeletConfiguration>,
    pub node: String,
    pub machine: Machine,
    pub figures: Arc<Figures>,
}

impl Server {
    /// Serves until `stop`.
    ///
    /// # Errors
    /// When the port is taken; one line.
    pub async fn start(
        self,
        address: SocketAddr,
        certificate: Arc<tls::Changing>,
        stop: CancellationToken,
    ) -> Result<(), String> {
        let acceptor = TlsAcceptor::from(tls::changing_config(certificate)?);
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| format!("failed to listen on {address}: {e}"))?;
        tracing::info!(%address, "Starting to listen");
        tokio::spawn(accept(Arc::new(self), listener, acceptor, stop));
        Ok(())
    }
}

async fn accept(server: Arc<Server>, listener: TcpListener, acceptor: TlsAcceptor, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: give others a moment to close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            continue;
        };
        let (server, acceptor) = (server.clone(), acceptor.clone());
        tokio::spawn(async move {
            connection(server, stream, acceptor).await;
            drop(slot);
        });
    }
}

async fn connection(server: Arc<Server>, stream: TcpStream, acceptor: TlsAcceptor) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
        return;
    };
    let session = stream.get_ref().1;
    let chain: Arc<Vec<_>> = Arc::new(
        session
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|c| c.clone().into_owned())
            .collect(),
    );
    let http2 = session.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, chain) = (server.clone(), chain.clone());
        async move { Ok::<_, Infallible>(answer(&server, request, &chain).await) }
    });
    let io = TokioIo::new(stream);
    if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(100)
            .keep_alive_interval(Duration::from_secs(30));
        let _ = builder.serve_connection(io, service).await;
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(32));
        let _ = builder.serve_connection(io, service).with_upgrades().await;
    }
}

async fn answer(
    server: &Arc<Server>,
    request: Request<Incoming>,
    chain: &[rustls::pki_types::CertificateDer<'static>],
) -> Response<Body> {
    let identity = match server.gate.authenticate(request.headers(), chain).await {
        Ok(identity) if identity.name != "system:anonymous" => identity,
        Ok(_) => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Err(refusal) => return text(refusal.code, &refusal.message),
    };
    let path = request.uri().path().to_owned();
    if let Err(refusal) = access::check(&server.gate, &identity, request.method(), &path, &server.node).await {
        return text(refusal.code, &refusal.message);
    }
    tracing::debug!(method = %request.method(), path, user = identity.name, "HTTP");
    routes::route(server, request, &path).await
}

/// A plain text answer.
fn text(code: StatusCode, body: &str) -> Response<Body> {
    with_type(
        code,
        "text/plain; charset=utf-8",
        Bytes::copy_from_slice(body.as_bytes()),
    )
}

fn json(body: &serde_json::Value) -> Response<Body> {
    with_type(StatusCode::OK, "application/json", body.to_string().into())
}

fn with_type(code: StatusCode, media: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never: Infallible| match never {}).boxed());
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media));
    response
}
