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
use tokio_util::sync::CancellationToken;

const MAX_CONNECTIONS: usize = 64;

/// Answers a path with code, media type and body.
pub type Handler = dyn Fn(&str) -> (StatusCode, &'static str, String) + Send + Sync;

/// Listens and serves in the background until `stop`. Returns the bound address (of use with port 0).
///
/// # Errors
/// When the address cannot be listened on.
pub async fn start(address: SocketAddr, handler: Arc<Handler>, stop: CancellationToken) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
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
    });
    Ok(bound)
}

fn answer(request: &Request<Incoming>, handler: &Handler) -> Response<Full<Bytes>> {
    let (code, media, body) = if matches!(*request.method(), Method::GET | Method::HEAD) {
        handler(request.uri().path())
    } else {
        (
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain; charset=utf-8",
            "method not allowed\n".to_owned(),
        )
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media));
    response
}
