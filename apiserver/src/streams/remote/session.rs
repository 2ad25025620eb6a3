//! What the two sides of an exec or attach session say, taken apart: pure, without connections and without time.
//!
//! [`Streams`] opens the streams towards the kubelet, [`Session`] says what follows from each frame of the kubelet, and
//! [`Channels`] what a client's message is for. [`super`] does what they say. What is kept is bounded by [`MAX_STATUS`].

use bytes::Bytes;
use serde_json::{Value, json};
use steersman_schema::status::Status;

use crate::streams::spdy;

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;
pub const CLOSE: u8 = 255;

/// Bytes of a final status that are kept.
const MAX_STATUS: usize = 64 * 1024;

/// Which streams the client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// The streams' numbers in the SPDY connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streams {
    pub error: u32,
    pub stdin: Option<u32>,
    pub stdout: Option<u32>,
    pub stderr: Option<u32>,
    pub resize: Option<u32>,
}

impl Streams {
    /// The streams of a session and the frames that open them.
    pub fn open(options: Options) -> (Self, Vec<Bytes>) {
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

/// What a piece of a client's message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
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
pub struct Channels {
    /// The channel of the message that is being read.
    current: Option<u8>,
    /// The channel that it closes.
    closing: Option<u8>,
    /// The number was the first byte of the last piece.
    numbered: bool,
}

impl Channels {
    pub fn take(&mut self, first: bool, last: bool, bytes: &[u8]) -> Input {
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
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(usize::from(self.numbered)..).unwrap_or_default()
    }
}

/// What follows from one event of the kubelet.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
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
pub struct Session {
    streams: Streams,
    /// Streams that are not accepted yet.
    replies: usize,
    /// Streams that must end before the session does.
    open: Vec<u32>,
    /// What came on the error stream.
    message: Vec<u8>,
}

impl Session {
    pub fn new(streams: Streams, replies: usize) -> Self {
        let open = [Some(streams.error), streams.stdout, streams.stderr];
        Self {
            streams,
            replies,
            open: open.into_iter().flatten().collect(),
            message: Vec::new(),
        }
    }

    pub fn waiting(&self) -> bool {
        self.replies > 0
    }

    pub fn take(&mut self, event: spdy::Event) -> Step {
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
    pub fn lost(&self, why: &str) -> Value {
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
