//! Connections: accepting, TLS, HTTP/1.1 or HTTP/2 by ALPN, limits, and the drain at the end.
//!
//! Knows nothing about Kubernetes: every request goes to one [`Service`]. What is about the process and not about one
//! request stands here, outermost first: connection limit, handshake deadline, header limits, panic to 500.

use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::{Body, RequestBody};

/// Open connections; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 20_000;
/// From accept to the end of the TLS handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// From the first byte of a request to the end of its headers, and how long an idle HTTP/1.1 connection stays (Go's
/// server has 32 s for the first).
const HEADER_DEADLINE: Duration = Duration::from_secs(90);
/// Bytes of headers of one request. Bearer tokens and impersonated groups need more than hyper's 16 KiB.
const MAX_HEADER_BYTES: u32 = 256 * 1024;
/// Receive window of one HTTP/2 stream (upstream: 256 KiB).
const STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of one HTTP/2 connection: sixteen streams' worth.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// Unsent bytes kept per HTTP/2 stream: what a slow watcher can hold.
const SEND_BUFFER: usize = 256 * 1024;
/// HTTP/2 PING after this much silence; a peer that does not answer in the same time is gone.
const PING_EVERY: Duration = Duration::from_secs(30);

/// Who is at the other end of a connection.
pub struct Peer {
    pub address: SocketAddr,
    /// What the client showed in the handshake; its key is proven, nothing else.
    pub identity: steersman_auth::authn::Peer,
}

/// A response that is being made.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    fn call(self: Arc<Self>, peer: Arc<Peer>, request: Request<RequestBody>) -> Answering;
    /// The answer when [`Service::call`] panicked.
    fn panicked(&self) -> Response<Body>;
}

/// How the server listens.
#[derive(Clone, Debug)]
pub struct Settings {
    pub max_streams: u32,
}

/// Serves until `stop`, then drains: no new connections, GOAWAY or `Connection: close` on the open ones, and at most
/// `patience` for what is running.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    settings: Settings,
    service: Arc<dyn Service>,
    stop: CancellationToken,
    patience: Duration,
) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    let room = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            break;
        };
        let (tcp, address) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: wait for connections to end instead of spinning.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (acceptor, service, stop, settings) = (acceptor.clone(), service.clone(), stop.clone(), settings.clone());
        connections.spawn(async move {
            connection(tcp, address, acceptor, settings, service, stop).await;
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(patience, connections.wait()).await.is_err() {
        tracing::warn!(
            open = connections.len(),
            "connections still open at the end of the drain"
        );
    }
}

async fn connection(
    tcp: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    settings: Settings,
    service: Arc<dyn Service>,
    stop: CancellationToken,
) {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let tls = match tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let (_, session) = tls.get_ref();
    let h2 = session.alpn_protocol() == Some(b"h2");
    let identity = steersman_auth::authn::Peer::new(session.peer_certificates().unwrap_or_default());
    let peer = Arc::new(Peer { address, identity });
    let handler = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (service, peer) = (service.clone(), peer.clone());
        async move {
            let request = request.map(|body| body.map_err(std::io::Error::other).boxed_unsync());
            let answer = AssertUnwindSafe(service.clone().call(peer, request))
                .catch_unwind()
                .await;
            Ok::<_, std::convert::Infallible>(answer.unwrap_or_else(|_| service.panicked()))
        }
    });
    let io = TokioIo::new(tls);
    let outcome = if h2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.max_streams)
            .max_header_list_size(MAX_HEADER_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY);
        let mut running = std::pin::pin!(builder.serve_connection(io, handler));
        tokio::select! {
            outcome = running.as_mut() => outcome,
            () = stop.cancelled() => {
                running.as_mut().graceful_shutdown();
                running.await
            }
        }
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .max_buf_size(MAX_HEADER_BYTES as usize);
        let mut running = std::pin::pin!(builder.serve_connection(io, handler).with_upgrades());
        tokio::select! {
            outcome = running.as_mut() => outcome,
            () = stop.cancelled() => {
                running.as_mut().graceful_shutdown();
                running.await
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%address, %error, "connection ended");
    }
}
