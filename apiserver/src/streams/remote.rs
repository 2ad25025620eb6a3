//! exec and attach over WebSocket `v5.channel.k8s.io`, which becomes SPDY/3.1 towards the kubelet.
//!
//! Each message of the client begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final `Status`, 4 the terminal's size,
//! and 255 closes the channel that follows. Towards the kubelet each is a stream of its own. As upstream, the client's
//! upgrade succeeds before the kubelet is asked, and what the kubelet refuses arrives as a status on channel 3.
//!
//! [`session`] says what follows from what either side sends (pure); here is who reads and who waits. A kubelet that takes
//! nothing holds nobody: answers to pings do not wait for it, a client that leaves meanwhile is noticed, and whatever is
//! still being written at the end is given up after [`FAREWELL`].

mod session;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use steersman_schema::status::Status;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::codec::FramedRead;

use self::session::{Channels, ERROR, Input, RESIZE, STDERR, STDIN, STDOUT, Session, Step, Streams};
use super::{FAREWELL, IDLE, PING_PERIOD, finish, spdy, websocket, while_there, writer};
use crate::api::Api;
use crate::body::{self, Body};
use crate::kubelet::Destination;

pub use self::session::Options;

/// The subprotocol that knows how to close a stream.
pub const PROTOCOL: &str = "v5.channel.k8s.io";
/// Names the protocol of the streams inside SPDY.
pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// Versions of it whose final word is a `Status`; runtimes speak the second.
const STREAM_PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// How long the kubelet may take to accept the streams.
const CREATION: Duration = Duration::from_secs(30);
/// Bytes of a kubelet's refusal that are shown.
const MAX_REFUSAL: usize = 2048;

/// Whether the client offers this protocol.
pub fn wanted(headers: &HeaderMap) -> bool {
    websocket::wanted(headers) && websocket::offered(headers).contains(&PROTOCOL)
}

/// Switches protocols and goes on in a task of its own until either side has left.
///
/// # Errors
/// 400 when the client's handshake is incomplete.
pub fn serve(
    api: &Arc<Api>,
    to: Destination,
    options: Options,
    headers: &HeaderMap,
    client: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let response = websocket::accept(headers, Some(PROTOCOL))?;
    if let Some(client) = client {
        let api = api.clone();
        tokio::spawn(async move {
            match client.await {
                Ok(client) => converse(connect(&api, &to), options, TokioIo::new(client)).await,
                Err(error) => tracing::debug!(%error, "a client left before its upgrade"),
            }
        });
    }
    Ok(response)
}

/// A session from the client's first message to the end of both connections. `connect` opens the kubelet's.
async fn converse<B, C>(connect: impl Future<Output = Result<B, Status>>, options: Options, client: C)
where
    B: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (from_client, to_client) = tokio::io::split(client);
    let (client, writing) = writer(to_client);
    let mut input = FramedRead::new(from_client, websocket::Frames::default());
    let lowest = match options {
        Options { stdout: true, .. } => STDOUT,
        Options { stderr: true, .. } => STDERR,
        _ => ERROR,
    };
    // An empty message says that the connection stands.
    let _ = client.send(channel(lowest, &[])).await;
    let (ended, to_kubelet) = match connect.await {
        Ok(backend) => {
            let (ended, to_kubelet) = exchange(backend, options, &client, &mut input).await;
            (ended, Some(to_kubelet))
        }
        Err(status) => (Some(status.to_value()), None),
    };
    let to_kubelet = async {
        if let Some(writing) = to_kubelet {
            finish(writing).await;
        }
    };
    let to_client = async {
        if let Some(status) = ended {
            let farewell = async {
                let _ = client.send(channel(ERROR, status.to_string().as_bytes())).await;
                let _ = client.send(websocket::close(websocket::NORMAL)).await;
                // Bytes that are still on their way must be read, or closing would tear the status from the client's hands.
                while !matches!(input.next().await, None | Some(Err(_) | Ok(websocket::Event::Close))) {}
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
        }
        drop(client);
        finish(writing).await;
    };
    tokio::join!(to_kubelet, to_client);
}

/// A message on a channel.
fn channel(number: u8, bytes: &[u8]) -> Bytes {
    websocket::message(websocket::BINARY, &[&[number], bytes])
}

/// Opens the kubelet's SPDY connection.
async fn connect(api: &Api, to: &Destination) -> Result<TokioIo<Upgraded>, Status> {
    let mut answer = api.kubelets.send(to, request(STREAM_PROTOCOLS)).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let backend = hyper::upgrade::on(&mut answer).await.map_err(Status::internal)?;
        return Ok(TokioIo::new(backend));
    }
    let text = crate::kubelet::error_text(answer, MAX_REFUSAL).await;
    Err(Status::internal(format!(
        "unable to upgrade connection: {}",
        text.trim()
    )))
}

/// A request for SPDY with these stream protocols.
pub fn request<'a>(protocols: impl IntoIterator<Item = &'a str>) -> Request<body::RequestBody> {
    let mut request = Request::new(body::empty());
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(spdy::NAME));
    for protocol in protocols {
        if let Ok(value) = HeaderValue::from_str(protocol) {
            headers.append(STREAM_PROTOCOL, value);
        }
    }
    request
}

/// Passes everything on until the command has ended, whose status is returned, or the client has left. What is still to be
/// written to the kubelet is left to the caller.
async fn exchange<B>(
    backend: B,
    options: Options,
    client: &mpsc::Sender<Bytes>,
    input: &mut FramedRead<impl AsyncRead + Unpin, websocket::Frames>,
) -> (Option<Value>, JoinHandle<()>)
where
    B: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (from, to) = tokio::io::split(backend);
    let (kubelet, writing) = writer(to);
    let (streams, frames) = Streams::open(options);
    let session = Session::new(streams, frames.len());
    for frame in frames {
        // A kubelet that has left already says so by the end of what is read.
        let _ = kubelet.send(frame).await;
    }
    let (ready, is_ready) = watch::channel(false);
    let status = tokio::select! {
        status = output(from, session, client, &kubelet, &ready) => Some(status),
        () = feed(input, &streams, client, &kubelet, is_ready) => None,
        () = keep_alive(&kubelet) => None,
    };
    (status, writing)
}

async fn keep_alive(kubelet: &mpsc::Sender<Bytes>) {
    let mut ticks = tokio::time::interval(PING_PERIOD);
    ticks.tick().await;
    let mut id = 1u32;
    loop {
        ticks.tick().await;
        // Where others' frames wait already, the connection is not quiet; where it is gone, the end of what is read says more.
        let _ = kubelet.try_send(spdy::ping(id));
        id = id.wrapping_add(2);
    }
}

/// What the kubelet sends, to the client; the status at the end.
async fn output(
    from: impl AsyncRead + Unpin,
    mut session: Session,
    client: &mpsc::Sender<Bytes>,
    kubelet: &mpsc::Sender<Bytes>,
    ready: &watch::Sender<bool>,
) -> Value {
    let mut events = FramedRead::new(from, spdy::Frames::default());
    let deadline = tokio::time::Instant::now() + CREATION;
    loop {
        let next = if session.waiting() {
            match tokio::time::timeout_at(deadline, events.next()).await {
                Ok(next) => next,
                Err(_) => return Status::internal("Timeout occurred").to_value(),
            }
        } else {
            events.next().await
        };
        let event = match next {
            Some(Ok(event)) => event,
            Some(Err(error)) => return session.lost(&error.to_string()),
            None => return session.lost("unexpected EOF"),
        };
        match session.take(event) {
            Step::Nothing => {}
            Step::Ready => {
                let _ = ready.send(true);
            }
            // A client that has left is noticed where its messages are read.
            Step::Show(number, bytes) => drop(client.send(channel(number, &bytes)).await),
            // What the kubelet sends is read on even if it reads nothing itself.
            Step::Answer(frame) => drop(kubelet.try_send(frame)),
            Step::Done(status) => return status,
        }
    }
}

/// What the client sends, to the kubelet; returns when the client has left.
async fn feed(
    input: &mut FramedRead<impl AsyncRead + Unpin, websocket::Frames>,
    streams: &Streams,
    client: &mpsc::Sender<Bytes>,
    kubelet: &mpsc::Sender<Bytes>,
    mut ready: watch::Receiver<bool>,
) {
    let mut channels = Channels::default();
    let mut stdin = streams.stdin;
    while let Ok(Some(Ok(event))) = tokio::time::timeout(IDLE, input.next()).await {
        let (first, last, bytes) = match event {
            websocket::Event::Data { first, last, bytes, .. } => (first, last, bytes),
            websocket::Event::Ping(payload) => {
                let _ = client.try_send(websocket::pong(&payload));
                continue;
            }
            websocket::Event::Pong => continue,
            websocket::Event::Close => break,
        };
        // A server that has not got all its streams would choke on their contents.
        if ready.wait_for(|ready| *ready).await.is_err() {
            break;
        }
        let frame = match channels.take(first, last, &bytes) {
            Input::Nothing => None,
            Input::Bytes(STDIN) => stdin.map(|id| spdy::data(id, channels.payload(&bytes), false)),
            Input::Bytes(RESIZE) => streams.resize.map(|id| spdy::data(id, channels.payload(&bytes), false)),
            Input::Bytes(_) => None,
            Input::Close(STDIN) => stdin.take().map(|id| spdy::data(id, &[], true)),
            Input::Close(_) => None,
            Input::Broken => break,
        };
        if let Some(frame) = frame
            && while_there(client, kubelet.send(frame)).await.is_none()
        {
            break;
        }
    }
    if let Some(id) = stdin {
        let _ = tokio::time::timeout(FAREWELL, kubelet.send(spdy::data(id, &[], true))).await;
    }
}

#[cfg(test)]
mod tests;
