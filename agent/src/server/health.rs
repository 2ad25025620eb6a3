//! `/healthz` on the loopback address (port 10248): plain HTTP, for whatever watches over the agent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::pods::Pods;

const MAX_CONNECTIONS: usize = 64;
/// The agent is alive while it looked at the runtime within this time.
const ALIVE: Duration = Duration::from_secs(120);

/// Serves in the background.
///
/// # Errors
/// When the port is taken; one line.
pub async fn serve(address: SocketAddr, pods: Arc<Pods>) -> Result<(), String> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| format!("failed to listen on {address}: {e}"))?;
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                continue;
            };
            let pods = pods.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let answer = answer(request.uri().path(), &pods);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let mut builder = hyper::server::conn::http1::Builder::new();
                builder
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(10));
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                drop(slot);
            });
        }
    });
    Ok(())
}

fn answer(path: &str, pods: &Pods) -> Response<Full<Bytes>> {
    let (code, body) = match path {
        "/healthz" | "/healthz/syncloop" if !pods.relisted(ALIVE) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "[-]syncloop failed: reason withheld\nhealthz check failed\n",
        ),
        "/healthz" | "/healthz/ping" | "/healthz/log" | "/healthz/syncloop" => (StatusCode::OK, "ok"),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = code;
    response
}
