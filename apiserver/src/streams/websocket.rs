//! WebSocket (RFC 6455) as a server speaks it: the handshake, and frames. Pure; no extensions.
//!
//! Messages are handed out in pieces as they come, never collected, so that their length is of no matter.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use steersman_schema::status::Status;
use tokio_util::codec::Decoder;

use super::PIECE;
use crate::body::Body;

/// RFC 6455, section 1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Largest payload of a control frame.
const MAX_CONTROL: usize = 125;
/// Close code of a conversation that is over.
pub const NORMAL: u16 = 1000;

const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// The subprotocols that a client offers, in its order, without the one that carries a token.
pub fn offered(headers: &HeaderMap) -> Vec<&str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .filter(|p| !p.is_empty() && !p.starts_with(steersman_auth::authn::PROTOCOL_PREFIX))
        .collect()
}

/// Whether the upgrade that is asked for is to a WebSocket.
pub fn wanted(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The answer that switches protocols.
///
/// # Errors
/// 400 when the client sent no key, 500 when the protocol's name fits into no header.
pub fn accept(headers: &HeaderMap, protocol: Option<&str>) -> Result<Response<Body>, Status> {
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| Status::bad_request("missing Sec-WebSocket-Key"))?;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|e| Status::internal(format!("bad answer: {e}")));
    let mut response = Response::new(crate::body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(header::SEC_WEBSOCKET_ACCEPT, value(&proof(key.as_bytes()))?);
    if let Some(protocol) = protocol {
        out.insert(header::SEC_WEBSOCKET_PROTOCOL, value(protocol)?);
    }
    Ok(response)
}

/// What shows that the key was read.
fn proof(key: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, MAGIC].concat());
    STANDARD.encode(digest)
}

/// A whole message in one frame, unmasked as a server's are. `parts` follow one another.
pub fn message(opcode: u8, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(length + 10);
    frame.push(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if usize::from(short) <= MAX_CONTROL => frame.push(short),
        (_, Ok(medium)) => {
            frame.push(126);
            frame.extend(medium.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    frame.into()
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Bytes {
    message(PONG, &[payload])
}

/// A message that its receiver answers.
pub fn ping() -> Bytes {
    message(PING, &[])
}

/// The end of the conversation.
pub fn close(code: u16) -> Bytes {
    message(CLOSE, &[&code.to_be_bytes()])
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A piece of a message.
    Data {
        /// It begins the message.
        first: bool,
        /// It ends it.
        last: bool,
        text: bool,
        bytes: Bytes,
    },
    /// To be answered with [`pong`].
    Ping(Bytes),
    Pong,
    Close,
}

/// Reads a client's frames.
#[derive(Default)]
pub struct Frames {
    /// The frame whose payload is being read.
    open: Option<Open>,
    /// A message has begun and is continued by the next data frame.
    message: Option<Message>,
}

#[derive(Clone, Copy)]
struct Message {
    text: bool,
    /// Nothing of it has been handed out.
    fresh: bool,
}

struct Open {
    left: u64,
    fin: bool,
    mask: [u8; 4],
    /// How many bytes of the mask are used up.
    turn: usize,
}

fn broken(why: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, why)
}

/// A frame's head: opcode, whether it ends its message, mask, payload length; and how long the head is.
struct Head {
    opcode: u8,
    fin: bool,
    mask: [u8; 4],
    length: u64,
    size: usize,
}

/// `None` while bytes are missing.
fn head(src: &[u8]) -> std::io::Result<Option<Head>> {
    let (Some(first), Some(second)) = (src.first(), src.get(1)) else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(broken("reserved bits are set"));
    }
    if second & 0x80 == 0 {
        return Err(broken("a client's frame is not masked"));
    }
    let wide = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let size = 2 + wide + 4;
    let Some(bytes) = src.get(2..size) else {
        return Ok(None);
    };
    let (length, mask) = bytes.split_at(wide);
    let length = if wide == 0 {
        u64::from(second & 0x7f)
    } else {
        length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    if length >> 63 != 0 {
        return Err(broken("a frame is too long"));
    }
    let mask = mask.try_into().map_err(|_| broken("no mask"))?;
    Ok(Some(Head {
        opcode: first & 0xf,
        fin: first & 0x80 != 0,
        mask,
        length,
        size,
    }))
}

fn unmask(bytes: &mut [u8], mask: [u8; 4], turn: usize) {
    for (byte, key) in bytes.iter_mut().zip(mask.iter().cycle().skip(turn % 4)) {
        *byte ^= key;
    }
}

impl Frames {
    /// A control frame, which must be there whole.
    fn control(head: &Head, src: &mut BytesMut) -> std::io::Result<Option<Event>> {
        let length = usize::try_from(head.length).unwrap_or(usize::MAX);
        if length > MAX_CONTROL || !head.fin {
            return Err(broken("a control frame is too long or in pieces"));
        }
        if src.len() < head.size + length {
            return Ok(None);
        }
        src.advance(head.size);
        let mut payload = src.split_to(length);
        unmask(&mut payload, head.mask, 0);
        Ok(Some(match head.opcode {
            CLOSE => Event::Close,
            PING => Event::Ping(payload.freeze()),
            _ => Event::Pong,
        }))
    }

    /// The next piece of the open frame, if there is any.
    fn piece(&mut self, src: &mut BytesMut) -> std::io::Result<Option<Event>> {
        let (Some(open), Some(message)) = (&mut self.open, &mut self.message) else {
            return Err(broken("no message is open"));
        };
        let there = src.len().min(PIECE).min(usize::try_from(open.left).unwrap_or(PIECE));
        if there == 0 && open.left > 0 {
            return Ok(None);
        }
        let mut bytes = src.split_to(there);
        unmask(&mut bytes, open.mask, open.turn);
        open.turn += there;
        open.left -= there as u64;
        let ended = open.left == 0;
        let event = Event::Data {
            first: std::mem::take(&mut message.fresh),
            last: ended && open.fin,
            text: message.text,
            bytes: bytes.freeze(),
        };
        if ended {
            if open.fin {
                self.message = None;
            }
            self.open = None;
        }
        Ok(Some(event))
    }
}

impl Decoder for Frames {
    type Item = Event;
    type Error = std::io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> std::io::Result<Option<Event>> {
        if self.open.is_some() {
            return self.piece(src);
        }
        let Some(head) = head(src)? else { return Ok(None) };
        match head.opcode {
            CLOSE | PING | PONG => return Self::control(&head, src),
            CONTINUATION if self.message.is_some() => {}
            TEXT | BINARY if self.message.is_none() => {
                self.message = Some(Message {
                    text: head.opcode == TEXT,
                    fresh: true,
                });
            }
            _ => return Err(broken("a frame that cannot come here")),
        }
        src.advance(head.size);
        self.open = Some(Open {
            left: head.length,
            fin: head.fin,
            mask: head.mask,
            turn: 0,
        });
        self.piece(src)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A client's frame.
    pub fn masked(opcode: u8, fin: bool, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut frame = message(opcode, &[payload]).to_vec();
        frame[0] = u8::from(fin) << 7 | opcode;
        frame[1] |= 0x80;
        let at = frame.len() - payload.len();
        frame.splice(at..at, mask);
        unmask(&mut frame[at + 4..], mask, 0);
        frame
    }

    fn all(mut frames: Frames, chunks: &[&[u8]]) -> std::io::Result<Vec<Event>> {
        let (mut src, mut out) = (BytesMut::new(), Vec::new());
        for chunk in chunks {
            src.extend_from_slice(chunk);
            while let Some(event) = frames.decode(&mut src)? {
                out.push(event);
            }
        }
        Ok(out)
    }

    /// The messages that pieces add up to.
    fn messages(events: &[Event]) -> Vec<Vec<u8>> {
        let mut out: Vec<Vec<u8>> = Vec::new();
        let mut open = false;
        for event in events {
            let Event::Data { first, last, bytes, .. } = event else {
                continue;
            };
            assert_eq!(*first, !open, "a message begins where the last one ended");
            if *first {
                out.push(Vec::new());
            }
            out.last_mut().unwrap().extend_from_slice(bytes);
            open = !last;
        }
        assert!(!open);
        out
    }

    #[test]
    fn the_key_is_accepted_as_the_standards_example_has_it() {
        assert_eq!(proof(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frames_tell_their_length_in_one_of_three_ways() {
        let head = |n: usize| message(BINARY, &[&vec![0; n]])[..4].to_vec();
        assert_eq!(head(5), [0x82, 5, 0, 0]);
        assert_eq!(head(300), [0x82, 126, 1, 44]);
        assert_eq!(head(70_000), [0x82, 127, 0, 0]);
    }

    #[test]
    fn what_no_client_may_send_is_refused() {
        let refused = |bytes: &[u8]| assert!(all(Frames::default(), &[bytes]).is_err(), "{bytes:?}");
        refused(&[0x82, 0x01, 0]); // not masked
        refused(&[0xc2, 0x81]); // reserved bit
        refused(&masked(CONTINUATION, true, b"x", [1; 4])); // continues nothing
        refused(&masked(0x3, true, b"x", [1; 4])); // no such opcode
        refused(&masked(PING, false, b"x", [1; 4])); // control frame in pieces
        refused(&masked(PING, true, &[0; 126], [1; 4])); // and too long
        refused(&[masked(BINARY, false, b"x", [1; 4]), masked(BINARY, true, b"y", [1; 4])].concat());
        refused(&[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            sent in prop::collection::vec((prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4), any::<[u8; 4]>()), 0..5),
            cuts in prop::collection::vec(1usize..40, 1..30),
            pings in any::<bool>(),
        ) {
            let mut wire = Vec::new();
            for (parts, mask) in &sent {
                for (i, part) in parts.iter().enumerate() {
                    let opcode = if i == 0 { BINARY } else { CONTINUATION };
                    wire.extend(masked(opcode, i + 1 == parts.len(), part, *mask));
                    if pings {
                        wire.extend(masked(PING, true, b"?", *mask));
                    }
                }
            }
            let mut chunks = Vec::new();
            let mut rest = wire.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (chunk, more) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            let events = all(Frames::default(), &chunks).unwrap();
            let whole: Vec<Vec<u8>> = sent.iter().map(|(parts, _)| parts.concat()).collect();
            prop_assert_eq!(messages(&events), whole);
            let frames: usize = sent.iter().map(|(parts, _)| parts.len()).sum();
            let seen = events.iter().filter(|e| **e == Event::Ping(Bytes::from_static(b"?"))).count();
            prop_assert_eq!(seen, if pings { frames } else { 0 });
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = all(Frames::default(), &[&bytes]);
        }
    }
}
