//! A small HTTP port without TLS, for what upstream serves in the clear: health for load balancers, and metrics on the
//! loopback address.
//!
//! Callers: the service proxy (10256, 10249) and cluster DNS. Only GET and HEAD; connections, header sizes and times are
//! bounded; a request body is never read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const MAX_CONNECTIONS: usize = 64;

/// Answers a path with code, media type and body.
pub type Handler = dyn Fn(&str) -> (StatusCode, &'static str, String) + Send + Sync;

/// Answers a path with headers of its own.
pub type Responder = dyn Fn(&str) -> Response<String> + Send + Sync;

/// Listens and serves in the background until `stop`. Returns the bound address (of use with port 0).
///
/// # Errors
/// When the address cannot be listened on.
pub async fn start(address: SocketAddr, handler: Arc<Handler>, stop: CancellationToken) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let responder = move |path: &str| {
        let (code, media, body) = handler(path);
        plain(code, media, body)
    };
    let _ = serve(listener, Arc::new(responder), stop);
    Ok(bound)
}

/// Serves on `listener` in the background until `stop`; when the task ends, the port is free again.
pub fn serve(listener: TcpListener, handler: Arc<Responder>, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, most likely: give the others a moment to close theirs.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                continue;
            };
            let (handler, stop) = (handler.clone(), stop.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let response = answer(&request, &*handler);
                    async move { Ok::<_, std::convert::Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(10))
                    .max_buf_size(16 << 10)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    // A client that goes away is no news.
                    _ = connection => {}
                    () = stop.cancelled() => {}
                }
                drop(slot);
            });
        }
    })
}

fn answer(request: &Request<Incoming>, handler: &Responder) -> Response<Full<Bytes>> {
    let response = if matches!(*request.method(), Method::GET | Method::HEAD) {
        handler(request.uri().path())
    } else {
        plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain; charset=utf-8",
            "method not allowed\n".to_owned(),
        )
    };
    response.map(|body| Full::new(Bytes::from(body)))
}

fn plain(code: StatusCode, media: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media));
    response
}
