//! exec and attach over WebSocket `v5.channel.k8s.io`, which becomes SPDY/3.1 towards the kubelet.
//!
//! Each message of the client begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the final `Status`, 4 the terminal's size,
//! and 255 closes the channel that follows. Towards the kubelet each is a stream of its own. As upstream, the client's
//! upgrade succeeds before the kubelet is asked, and what the kubelet refuses arrives as a status on channel 3.
//!
//! [`Session`] (what the kubelet says) and [`Channels`] (what the client says) are pure.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use steersman_schema::status::Status;
use tokio::io::{AsyncRead, ReadHalf};
use tokio::sync::{mpsc, watch};
use tokio_util::codec::FramedRead;

use super::{FAREWELL, IDLE, spdy, websocket, writer};
use crate::api::Api;
use crate::body::{self, Body};
use crate::kubelet::Destination;

/// The subprotocol that knows how to close a stream.
pub const PROTOCOL: &str = "v5.channel.k8s.io";
/// Names the protocol of the streams inside SPDY.
pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// Versions of it whose final word is a `Status`; runtimes speak the second.
const STREAM_PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// How long the kubelet may take to accept the streams.
const CREATION: Duration = Duration::from_secs(30);
/// Keeps what lies between us and the kubelet from forgetting a quiet connection.
const PING_PERIOD: Duration = Duration::from_secs(5);
/// Bytes of a final status that are kept.
const MAX_STATUS: usize = 64 * 1024;
/// Bytes of a kubelet's refusal that are shown.
const MAX_REFUSAL: usize = 2048;

/// Which streams the client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

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
                Ok(client) => session(&api, &to, options, client).await,
                Err(error) => tracing::debug!(%error, "a client left before its upgrade"),
            }
        });
    }
    Ok(response)
}

type FromClient = FramedRead<ReadHalf<TokioIo<Upgraded>>, websocket::Frames>;

async fn session(api: &Api, to: &Destination, options: Options, client: Upgraded) {
    let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
    let (client, writing) = writer(to_client);
    let mut input = FramedRead::new(from_client, websocket::Frames::default());
    let lowest = match options {
        Options { stdout: true, .. } => STDOUT,
        Options { stderr: true, .. } => STDERR,
        _ => ERROR,
    };
    // An empty message says that the connection stands.
    let _ = client.send(channel(lowest, &[])).await;
    let ended = match connect(api, to).await {
        Ok(backend) => exchange(backend, options, &client, &mut input).await,
        Err(status) => Some(status.to_value()),
    };
    if let Some(status) = ended {
        let _ = client.send(channel(ERROR, status.to_string().as_bytes())).await;
        let _ = client.send(websocket::close(websocket::NORMAL)).await;
        drop(client);
        // Bytes that are still on their way must be read, or closing would tear the status from the client's hands.
        let farewell =
            async { while !matches!(input.next().await, None | Some(Err(_) | Ok(websocket::Event::Close))) {} };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    } else {
        drop(client);
    }
    let abort = writing.abort_handle();
    if tokio::time::timeout(FAREWELL, writing).await.is_err() {
        abort.abort();
    }
}

/// A message on a channel.
fn channel(number: u8, bytes: &[u8]) -> Bytes {
    websocket::message(websocket::BINARY, &[&[number], bytes])
}

/// Opens the kubelet's SPDY connection.
async fn connect(api: &Api, to: &Destination) -> Result<Upgraded, Status> {
    let mut answer = api.kubelets.send(to, request(STREAM_PROTOCOLS)).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return hyper::upgrade::on(&mut answer).await.map_err(Status::internal);
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

/// The streams' numbers in the SPDY connection.
#[derive(Clone, Copy, Debug, Default)]
struct Streams {
    error: u32,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

impl Streams {
    /// The streams of a session and the frames that open them.
    fn open(options: Options) -> (Self, Vec<Bytes>) {
        let (mut opener, mut frames) = (spdy::Opener::default(), Vec::new());
        let mut open = |kind: &str| {
            let (id, frame) = opener.open("streamtype", kind);
            frames.push(frame);
            id
        };
        let streams = Self {
            error: open("error"),
            stdin: options.stdin.then(|| open("stdin")),
            stdout: options.stdout.then(|| open("stdout")),
            // A terminal has one output.
            stderr: (options.stderr && !options.tty).then(|| open("stderr")),
            resize: options.tty.then(|| open("resize")),
        };
        (streams, frames)
    }
}

/// Passes everything on until the command has ended, whose status is returned, or the client has left.
async fn exchange(
    backend: Upgraded,
    options: Options,
    client: &mpsc::Sender<Bytes>,
    input: &mut FromClient,
) -> Option<Value> {
    let (from, to) = tokio::io::split(TokioIo::new(backend));
    let (kubelet, _writing) = writer(to);
    let (streams, frames) = Streams::open(options);
    let session = Session::new(streams, frames.len());
    for frame in frames {
        // A kubelet that has left already says so by the end of what is read.
        let _ = kubelet.send(frame).await;
    }
    let (ready, is_ready) = watch::channel(false);
    tokio::select! {
        status = output(from, session, client, &kubelet, &ready) => Some(status),
        () = feed(input, &streams, client, &kubelet, is_ready) => None,
        () = keep_alive(&kubelet) => None,
    }
}

async fn keep_alive(kubelet: &mpsc::Sender<Bytes>) {
    let mut ticks = tokio::time::interval(PING_PERIOD);
    ticks.tick().await;
    let mut id = 1u32;
    loop {
        ticks.tick().await;
        if kubelet.send(spdy::ping(id)).await.is_err() {
            // The end of what is read says more.
            std::future::pending::<()>().await;
        }
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
            Step::Answer(frame) => drop(kubelet.send(frame).await),
            Step::Done(status) => return status,
        }
    }
}

/// What the client sends, to the kubelet; returns when the client has left.
async fn feed(
    input: &mut FromClient,
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
                let _ = client.send(websocket::pong(&payload)).await;
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
        if let Some(frame) = frame {
            let _ = kubelet.send(frame).await;
        }
    }
    if let Some(id) = stdin {
        let _ = kubelet.send(spdy::data(id, &[], true)).await;
    }
}

/// What a piece of a client's message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Nothing,
    /// The piece, without the channel's number, belongs to a channel.
    Bytes(u8),
    /// The client sends nothing more on it.
    Close(u8),
    /// The client does not keep to the protocol.
    Broken,
}

/// Takes a client's messages apart.
#[derive(Default)]
struct Channels {
    /// The channel of the message that is being read.
    current: Option<u8>,
    /// The channel that it closes.
    closing: Option<u8>,
    /// The number was the first byte of the last piece.
    numbered: bool,
}

impl Channels {
    fn take(&mut self, first: bool, last: bool, bytes: &[u8]) -> Input {
        if first {
            self.current = None;
            self.closing = None;
        }
        self.numbered = self.current.is_none() && !bytes.is_empty();
        if self.numbered {
            self.current = bytes.first().copied();
        }
        let payload = self.payload(bytes);
        match self.current {
            None => Input::Nothing,
            Some(CLOSE) => match (self.closing, payload) {
                (None, []) if last => Input::Broken,
                (Some(number), []) if last => Input::Close(number),
                (_, []) => Input::Nothing,
                (None, [number]) if *number > RESIZE => Input::Broken,
                (None, [number]) if last => Input::Close(*number),
                (None, [number]) => {
                    self.closing = Some(*number);
                    Input::Nothing
                }
                _ => Input::Broken,
            },
            Some(_) if payload.is_empty() => Input::Nothing,
            Some(number) => Input::Bytes(number),
        }
    }

    /// The piece that was taken last, without the channel's number.
    fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(usize::from(self.numbered)..).unwrap_or_default()
    }
}

/// What follows from one event of the kubelet.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Nothing,
    /// All streams are accepted: the client may be heard.
    Ready,
    /// Bytes for a channel of the client.
    Show(u8, Bytes),
    /// A frame for the kubelet.
    Answer(Bytes),
    /// The end, with the status for the client.
    Done(Value),
}

/// The kubelet's side of a session.
struct Session {
    streams: Streams,
    /// Streams that are not accepted yet.
    replies: usize,
    /// Streams that must end before the session does.
    open: Vec<u32>,
    /// What came on the error stream.
    message: Vec<u8>,
}

impl Session {
    fn new(streams: Streams, replies: usize) -> Self {
        let open = [Some(streams.error), streams.stdout, streams.stderr];
        Self {
            streams,
            replies,
            open: open.into_iter().flatten().collect(),
            message: Vec::new(),
        }
    }

    fn waiting(&self) -> bool {
        self.replies > 0
    }

    fn take(&mut self, event: spdy::Event) -> Step {
        match event {
            spdy::Event::Reply { stream, last } => {
                let waited = self.waiting();
                self.replies = self.replies.saturating_sub(1);
                match self.end(stream, last) {
                    Step::Nothing if waited && !self.waiting() => Step::Ready,
                    step => step,
                }
            }
            spdy::Event::Reset { .. } if self.waiting() => Step::Done(Status::internal("Stream reset").to_value()),
            spdy::Event::Reset { stream } => self.end(stream, true),
            spdy::Event::Data { stream, bytes, last } => self.data(stream, bytes, last),
            // Even numbers are the server's own; odd ones answer ours.
            spdy::Event::Ping { id } if id % 2 == 0 => Step::Answer(spdy::ping(id)),
            spdy::Event::Ping { .. } | spdy::Event::GoAway | spdy::Event::Other => Step::Nothing,
        }
    }

    fn data(&mut self, stream: u32, bytes: Bytes, last: bool) -> Step {
        if stream == self.streams.error {
            let room = MAX_STATUS.saturating_sub(self.message.len());
            self.message.extend_from_slice(bytes.get(..room).unwrap_or(&bytes));
        }
        let number = match Some(stream) {
            id if id == self.streams.stdout => STDOUT,
            id if id == self.streams.stderr => STDERR,
            _ => return self.end(stream, last),
        };
        // Its end is told with its last bytes, or with none; those must not get lost.
        match self.end(stream, last) {
            Step::Nothing if !bytes.is_empty() => Step::Show(number, bytes),
            step => step,
        }
    }

    /// The last stream that ends ends the session.
    fn end(&mut self, stream: u32, last: bool) -> Step {
        if last {
            self.open.retain(|id| *id != stream);
        }
        if last && self.open.is_empty() {
            Step::Done(verdict(&self.message))
        } else {
            Step::Nothing
        }
    }

    /// The status when the kubelet's connection is gone before its time.
    fn lost(&self, why: &str) -> Value {
        if self.message.is_empty() {
            Status::internal(why).to_value()
        } else {
            verdict(&self.message)
        }
    }
}

/// The client's status for what came on the error stream: upstream's own words again.
fn verdict(message: &[u8]) -> Value {
    let broken = |why: String| Status::internal(format!("error stream protocol error: {why}")).to_value();
    if message.is_empty() {
        return json!({"metadata": {}, "status": "Success"});
    }
    let status: Value = match serde_json::from_slice(message) {
        Ok(status) => status,
        Err(error) => return broken(format!("{error} in {:?}", String::from_utf8_lossy(message))),
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match text(&status["status"]).as_str() {
        "Success" => return json!({"metadata": {}, "status": "Success"}),
        "Failure" => {}
        _ => return broken("unknown error".into()),
    }
    if status["reason"] != "NonZeroExitCode" {
        return Status::internal(text(&status["message"])).to_value();
    }
    let Some(details) = status["details"].as_object() else {
        return broken("details must be set".into());
    };
    let causes = details.get("causes").and_then(Value::as_array);
    let Some(cause) = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode") else {
        return broken("no ExitCode cause given".into());
    };
    let code = text(&cause["message"]);
    if code.parse::<u8>().is_err() {
        return broken(format!("invalid exit code value {code:?}"));
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: command terminated with exit code {code}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Options = Options {
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };

    fn data(stream: u32, bytes: &'static [u8], last: bool) -> spdy::Event {
        spdy::Event::Data {
            stream,
            bytes: Bytes::from_static(bytes),
            last,
        }
    }

    /// A session whose streams are accepted.
    fn ready(options: Options) -> Session {
        let (streams, frames) = Streams::open(options);
        let mut session = Session::new(streams, frames.len());
        for i in 0..frames.len() {
            let expected = if i + 1 == frames.len() {
                Step::Ready
            } else {
                Step::Nothing
            };
            let stream = u32::try_from(2 * i + 1).unwrap();
            assert_eq!(session.take(spdy::Event::Reply { stream, last: false }), expected);
        }
        session
    }

    #[test]
    fn streams_are_those_that_were_asked_for_and_a_terminal_has_one_output() {
        let ids = |options| {
            let (s, frames) = Streams::open(options);
            (s.error, s.stdin, s.stdout, s.stderr, s.resize, frames.len())
        };
        assert_eq!(ids(ALL), (1, Some(3), Some(5), Some(7), None, 4));
        assert_eq!(
            ids(Options { tty: true, ..ALL }),
            (1, Some(3), Some(5), None, Some(7), 4)
        );
        assert_eq!(
            ids(Options {
                stdin: false,
                stdout: false,
                ..ALL
            }),
            (1, None, None, Some(3), None, 2)
        );
    }

    #[test]
    fn outputs_reach_their_channels_and_the_status_comes_last() {
        let mut session = ready(ALL);
        assert_eq!(
            session.take(data(5, b"out", false)),
            Step::Show(STDOUT, Bytes::from_static(b"out"))
        );
        assert_eq!(
            session.take(data(7, b"err", true)),
            Step::Show(STDERR, Bytes::from_static(b"err"))
        );
        assert_eq!(session.take(spdy::Event::Ping { id: 2 }), Step::Answer(spdy::ping(2)));
        assert_eq!(session.take(spdy::Event::Ping { id: 1 }), Step::Nothing);
        let exit = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(session.take(data(1, exit, true)), Step::Nothing);
        assert_eq!(
            session.take(data(5, b"more", false)),
            Step::Show(STDOUT, Bytes::from_static(b"more"))
        );
        let Step::Done(status) = session.take(spdy::Event::Reset { stream: 5 }) else {
            panic!()
        };
        assert_eq!(status["details"]["causes"][0]["message"], "7");
        assert_eq!(
            status["message"],
            "command terminated with non-zero exit code: command terminated with exit code 7"
        );
    }

    #[test]
    fn a_stream_that_is_not_accepted_or_a_lost_connection_is_an_error() {
        let (streams, frames) = Streams::open(ALL);
        let mut session = Session::new(streams, frames.len());
        let Step::Done(status) = session.take(spdy::Event::Reset { stream: 1 }) else {
            panic!()
        };
        assert_eq!(status["message"], "Internal error occurred: Stream reset");
        let mut session = ready(ALL);
        assert_eq!(
            session.lost("unexpected EOF")["message"],
            "Internal error occurred: unexpected EOF"
        );
        let _ = session.take(data(1, br#"{"status":"Success"}"#, false));
        assert_eq!(session.lost("unexpected EOF")["status"], "Success");
    }

    #[test]
    fn the_final_word_is_told_as_upstream_tells_it() {
        let said = |text: &str| {
            let status = verdict(text.as_bytes());
            format!(
                "{} {}",
                status["status"].as_str().unwrap(),
                status["message"].as_str().unwrap_or("-")
            )
        };
        assert_eq!(said(""), "Success -");
        assert_eq!(said(r#"{"status":"Success"}"#), "Success -");
        assert_eq!(
            said(r#"{"status":"Failure","message":"boom"}"#),
            "Failure Internal error occurred: boom"
        );
        let broken = "Failure Internal error occurred: error stream protocol error: ";
        assert_eq!(said("{}"), format!("{broken}unknown error"));
        assert_eq!(
            said(r#"{"status":"Failure","reason":"NonZeroExitCode"}"#),
            format!("{broken}details must be set")
        );
        let cause = |c: &str| {
            said(&format!(
                r#"{{"status":"Failure","reason":"NonZeroExitCode","details":{{"causes":[{c}]}}}}"#
            ))
        };
        assert_eq!(cause(""), format!("{broken}no ExitCode cause given"));
        assert_eq!(
            cause(r#"{"reason":"ExitCode","message":"300"}"#),
            format!("{broken}invalid exit code value \"300\"")
        );
        assert!(said("no json").starts_with(broken));
    }

    #[test]
    fn a_client_closes_channels_and_may_not_close_what_there_is_not() {
        let take = |message: &[u8]| Channels::default().take(true, true, message);
        assert_eq!(take(&[CLOSE, STDIN]), Input::Close(STDIN));
        assert_eq!(take(&[CLOSE, 5]), Input::Broken);
        assert_eq!(take(&[CLOSE]), Input::Broken);
        assert_eq!(take(&[CLOSE, 0, 0]), Input::Broken);
        assert_eq!(take(&[]), Input::Nothing);
        assert_eq!(take(&[STDIN]), Input::Nothing);
        assert_eq!(take(&[RESIZE, b'{']), Input::Bytes(RESIZE));
    }

    proptest! {
        #[test]
        fn a_channel_gets_its_bytes_however_a_message_is_cut(number in 0u8..=4, payload in prop::collection::vec(any::<u8>(), 0..60), cuts in prop::collection::vec(0usize..9, 1..20)) {
            let message = [&[number], payload.as_slice()].concat();
            let (mut channels, mut got, mut rest, mut first) = (Channels::default(), Vec::new(), message.as_slice(), true);
            let mut cuts = cuts.into_iter().chain(std::iter::once(usize::MAX));
            loop {
                let (piece, more) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                match channels.take(first, more.is_empty(), piece) {
                    Input::Bytes(n) => {
                        prop_assert_eq!(n, number);
                        got.extend_from_slice(channels.payload(piece));
                    }
                    other => prop_assert_eq!(other, Input::Nothing),
                }
                first = false;
                rest = more;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(got, payload);
        }

        #[test]
        fn closing_may_come_in_pieces(number in 0u8..=4, empty in any::<bool>()) {
            let mut channels = Channels::default();
            prop_assert_eq!(channels.take(true, false, &[CLOSE]), Input::Nothing);
            let close = channels.take(false, !empty, &[number]);
            let end = if empty { channels.take(false, true, &[]) } else { close };
            prop_assert_eq!(end, Input::Close(number));
        }
    }
}
