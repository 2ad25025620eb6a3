//! The HTTPS port of a component.
//!
//! Callers: every control-plane program; agents may reuse [`Gate`] and [`tls`]. Serves `/healthz`, `/livez`, `/readyz` (with
//! `?verbose` and `/<check>`), `/metrics` and whatever routes the program adds. A path outside the always-allowed list passes the
//! [`Gate`]: authenticated by client certificate or TokenReview, authorized by SubjectAccessReview.
//!
//! What stays true: connections, header sizes and request times are bounded; a request body is never read.

pub mod gate;
pub mod plain;
pub mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::client::Client;
use crate::flags::ServingFlags;
use crate::metrics::Metrics;
pub use gate::{Gate, Identity};

const MAX_CONNECTIONS: usize = 512;
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// Why the port could not be opened. One line.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("failed to create listener: failed to listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Certificate(String),
}

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;
type Handler = Arc<dyn Fn(&str) -> (StatusCode, &'static str, String) + Send + Sync>;

#[derive(Default)]
struct Content {
    checks: RwLock<Vec<(String, Check)>>,
    routes: RwLock<Vec<(String, Handler)>>,
}

/// A component's server: fill it, then [`ComponentServer::start`].
pub struct ComponentServer {
    content: Arc<Content>,
    metrics: Metrics,
    gate: Arc<Gate>,
}

impl ComponentServer {
    #[must_use]
    pub fn new(metrics: Metrics, gate: Gate) -> Self {
        let server = Self {
            content: Arc::default(),
            metrics,
            gate: Arc::new(gate),
        };
        server.check("ping", || Ok(()));
        server
    }

    /// Adds a check to all three health paths; its error text is shown to whoever may see it.
    pub fn check(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.content.checks.write().push((name.to_owned(), Arc::new(check)));
    }

    /// Answers GET on `path` with what `handler` (given the query) returns: code, media type, body.
    pub fn route(
        &self,
        path: &str,
        handler: impl Fn(&str) -> (StatusCode, &'static str, String) + Send + Sync + 'static,
    ) {
        self.content.routes.write().push((path.to_owned(), Arc::new(handler)));
    }

    /// Listens and serves in the background until `stop`. Returns the address (of use with port 0 in tests).
    ///
    /// # Errors
    /// When the certificate is unusable or the port taken.
    pub async fn start(
        self,
        address: SocketAddr,
        certificate: &tls::Serving,
        stop: CancellationToken,
    ) -> Result<SocketAddr, ServeError> {
        let config = tls::server_config(certificate).map_err(ServeError::Certificate)?;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Listen { address, source })?;
        let bound = listener
            .local_addr()
            .map_err(|source| ServeError::Listen { address, source })?;
        info!(address = %bound, "Serving securely");
        let server = Arc::new(self);
        tokio::spawn(async move { server.accept(listener, TlsAcceptor::from(config), stop).await });
        Ok(bound)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, acceptor: TlsAcceptor, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: give the others a moment to close theirs.
                    warn!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                debug!(%peer, "too many connections");
                continue;
            };
            let (server, acceptor, stop) = (self.clone(), acceptor.clone(), stop.clone());
            tokio::spawn(async move {
                server.connection(stream, acceptor, stop).await;
                drop(slot);
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor, stop: CancellationToken) {
        let handshake = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await;
        let Ok(Ok(stream)) = handshake else { return };
        let chain: Arc<Vec<_>> = Arc::new(
            stream
                .get_ref()
                .1
                .peer_certificates()
                .unwrap_or_default()
                .iter()
                .map(|c| c.clone().into_owned())
                .collect(),
        );
        let service = service_fn(move |request: Request<Incoming>| {
            let (server, chain) = (self.clone(), chain.clone());
            async move {
                let answer = tokio::time::timeout(REQUEST_TIME, server.answer(request, &chain)).await;
                Ok::<_, std::convert::Infallible>(
                    answer.unwrap_or_else(|_| text(StatusCode::GATEWAY_TIMEOUT, "the request took too long\n")),
                )
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(10));
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(Duration::from_secs(5), connection).await;
            }
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        chain: &[rustls::pki_types::CertificateDer<'static>],
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        if let Err(refusal) = self.gate.admit(request.method(), &path, request.headers(), chain).await {
            return text(refusal.code, &refusal.message);
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        }
        let query = request.uri().query().unwrap_or_default();
        if path == "/metrics" {
            return with_type(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.metrics.encode(),
            );
        }
        for health in ["/healthz", "/livez", "/readyz"] {
            if let Some(rest) = path.strip_prefix(health)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                return self.health(health.trim_start_matches('/'), rest.trim_start_matches('/'), query);
            }
        }
        let handler = self
            .content
            .routes
            .read()
            .iter()
            .find(|(route, _)| *route == path)
            .map(|(_, h)| h.clone());
        match handler {
            Some(handler) => {
                let (code, media, body) = handler(query);
                with_type(code, media, body)
            }
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    /// Upstream's form: `ok`, or one line per check.
    fn health(&self, which: &str, single: &str, query: &str) -> Response<Full<Bytes>> {
        let checks = self.content.checks.read().clone();
        let excluded: Vec<&str> = query.split('&').filter_map(|p| p.strip_prefix("exclude=")).collect();
        let mut lines = String::new();
        let mut failed = Vec::new();
        let mut found = single.is_empty();
        for (name, check) in checks.iter().filter(|(name, _)| single.is_empty() || name == single) {
            found = true;
            if excluded.contains(&name.as_str()) {
                lines.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            match check() {
                Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
                Err(error) => {
                    warn!(check = %name, %error, "{which} check failed");
                    lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
                    failed.push(name.clone());
                }
            }
        }
        if !found {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        if !failed.is_empty() {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("{lines}{which} check failed\n"),
            );
        }
        let verbose = query.split('&').any(|p| p == "verbose" || p.starts_with("verbose="));
        if verbose {
            text(StatusCode::OK, &format!("{lines}{which} check passed\n"))
        } else {
            text(StatusCode::OK, "ok")
        }
    }
}

fn text(code: StatusCode, body: &str) -> Response<Full<Bytes>> {
    with_type(code, "text/plain; charset=utf-8", body.to_owned())
}

fn with_type(code: StatusCode, media: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media));
    headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    response
}

/// Opens a program's port as its flags say; `name` is the generated certificate's file name and common name,
/// `main` the program's own client (for looking up the client CA). Port 0 serves nothing.
///
/// # Errors
/// When a file is missing or the port is taken; one line.
pub async fn open(
    flags: &ServingFlags,
    name: &str,
    default_port: u16,
    main: &Client,
    metrics: Metrics,
    fill: impl FnOnce(&ComponentServer),
    stop: CancellationToken,
) -> anyhow::Result<Option<SocketAddr>> {
    let port = flags.secure_port.unwrap_or(default_port);
    if port == 0 {
        return Ok(None);
    }
    let reviewer = |path: &Option<PathBuf>| {
        let path = path.clone();
        async move {
            match path {
                None => Ok(None),
                Some(path) => Client::from_kubeconfig(&path, name).await.map(Some),
            }
        }
    };
    let authn = reviewer(&flags.authentication_kubeconfig).await?;
    let authz = reviewer(&flags.authorization_kubeconfig).await?;
    let gate = Gate::new(flags, authn, authz, main.clone()).map_err(anyhow::Error::msg)?;
    let certificate = tls::Serving::from_flags(flags, name).map_err(anyhow::Error::msg)?;
    let server = ComponentServer::new(metrics, gate);
    fill(&server);
    let address = SocketAddr::new(flags.bind_address, port);
    Ok(Some(server.start(address, &certificate, stop).await?))
}
