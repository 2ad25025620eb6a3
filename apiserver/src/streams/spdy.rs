//! SPDY/3.1 framing as a client needs it towards a kubelet's streaming server. Pure.
//!
//! Only what Kubernetes uses: streams that the client opens, data both ways, half-closing, resets, pings. Servers of this kind neither
//! keep windows nor wait for window updates, so none are sent; what is not read from the connection holds them back. Header
//! blocks are a zlib stream with the dictionary of SPDY/3. Ours refers to the dictionary but compresses nothing (stored blocks),
//! and blocks of servers are not looked at: a reply says all we need by coming. So the dictionary itself is not needed.

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::Decoder;

use super::PIECE;

/// Name of the protocol in `Upgrade`.
pub const NAME: &str = "SPDY/3.1";

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const FIN: u8 = 1;

/// Head of a zlib stream (deflate, 32 KiB window) that begins with a preset dictionary.
const ZLIB_HEAD: [u8; 2] = [0x78, 0x20];
/// Adler-32 of the dictionary in section 2.6.10.1 of the SPDY/3 draft.
const DICTIONARY: u32 = 0xe3c6_a7c2;
/// An empty stored block: everything before it can be read (`Z_SYNC_FLUSH`).
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];
/// Largest control frame that is read over: headers and settings are far smaller.
const MAX_CONTROL: u32 = 64 * 1024;

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + payload.len());
    frame.extend((0x8000 | VERSION).to_be_bytes());
    frame.extend(kind.to_be_bytes());
    // Three bytes of length; all of ours are short.
    frame.extend((u32::from(flags) << 24 | u32::try_from(payload.len()).unwrap_or(0) & 0x00ff_ffff).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Opens streams, numbered by 2 as a client must; one zlib stream of headers runs through all of them.
#[derive(Default)]
pub struct Opener {
    opened: u32,
}

impl Opener {
    /// The frame that opens a stream with one header, and the stream's number. Name (lower case) and value are short.
    pub fn open(&mut self, name: &str, value: &str) -> (u32, Bytes) {
        let id = self.opened * 2 + 1;
        self.opened += 1;
        let mut headers = Vec::new();
        headers.extend(1u32.to_be_bytes());
        for text in [name, value] {
            headers.extend(u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
            headers.extend_from_slice(text.as_bytes());
        }
        let mut payload = Vec::new();
        payload.extend(id.to_be_bytes());
        payload.extend([0; 6]); // belongs to no other stream, highest priority, slot 0
        if id == 1 {
            payload.extend(ZLIB_HEAD);
            payload.extend(DICTIONARY.to_be_bytes());
        }
        let length = u16::try_from(headers.len()).unwrap_or(0);
        payload.push(0);
        payload.extend(length.to_le_bytes());
        payload.extend((!length).to_le_bytes());
        payload.extend(headers);
        payload.extend(FLUSH);
        (id, control(SYN_STREAM, 0, &payload).into())
    }
}

/// Bytes of a stream; `last` closes our half of it. At most 2^24 - 1 bytes.
pub fn data(stream: u32, bytes: &[u8], last: bool) -> Bytes {
    let mut frame = Vec::with_capacity(8 + bytes.len());
    frame.extend((stream & 0x7fff_ffff).to_be_bytes());
    let length = u32::try_from(bytes.len()).unwrap_or(0) & 0x00ff_ffff;
    frame.extend((u32::from(last) << 24 | length).to_be_bytes());
    frame.extend_from_slice(bytes);
    frame.into()
}

/// A ping, or the answer to one: the same frame.
pub fn ping(id: u32) -> Bytes {
    control(PING, 0, &id.to_be_bytes()).into()
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stream that we opened is accepted.
    Reply {
        stream: u32,
        last: bool,
    },
    /// Bytes of a stream, in pieces as they come.
    Data {
        stream: u32,
        bytes: Bytes,
        last: bool,
    },
    /// A stream is over, both ways.
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Nothing that matters here.
    Other,
}

/// Reads a server's frames.
#[derive(Default)]
pub struct Frames {
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    Data {
        stream: u32,
        left: usize,
        last: bool,
    },
    /// Bytes of a control frame that nobody reads.
    Skip {
        left: usize,
        then: Event,
    },
}

fn broken(why: impl Into<String>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, why.into())
}

fn word(src: &[u8], at: usize) -> Option<u32> {
    src.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

impl Frames {
    /// Reads a frame's head; `false` while bytes of it are missing.
    fn head(&mut self, src: &mut BytesMut) -> std::io::Result<bool> {
        let (Some(first), Some(second)) = (word(src, 0), word(src, 4)) else {
            return Ok(false);
        };
        let flags = second >> 24;
        let length = second & 0x00ff_ffff;
        if first & 0x8000_0000 == 0 {
            if first == 0 {
                return Err(broken("data of stream 0"));
            }
            src.advance(8);
            self.state = State::Data {
                stream: first,
                left: length as usize,
                last: flags & u32::from(FIN) != 0,
            };
            return Ok(true);
        }
        if first >> 16 & 0x7fff != u32::from(VERSION) {
            return Err(broken("not SPDY/3"));
        }
        if length > MAX_CONTROL {
            return Err(broken(format!("a control frame of {length} bytes")));
        }
        let kind = (first & 0xffff) as u16;
        let known = matches!(kind, SYN_REPLY | RST_STREAM | PING);
        if known && length < 4 {
            return Err(broken("a control frame is cut short"));
        }
        if known && src.len() < 12 {
            return Ok(false);
        }
        let number = word(src, 8).unwrap_or(0);
        let stream = number & 0x7fff_ffff;
        let then = match kind {
            SYN_REPLY => Event::Reply {
                stream,
                last: flags & u32::from(FIN) != 0,
            },
            RST_STREAM => Event::Reset { stream },
            PING => Event::Ping { id: number },
            GO_AWAY => Event::GoAway,
            _ => Event::Other,
        };
        src.advance(8);
        self.state = State::Skip {
            left: length as usize,
            then,
        };
        Ok(true)
    }
}

impl Decoder for Frames {
    type Item = Event;
    type Error = std::io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> std::io::Result<Option<Event>> {
        loop {
            match &mut self.state {
                State::Head => {
                    if !self.head(src)? {
                        return Ok(None);
                    }
                }
                State::Skip { left, then } => {
                    let there = src.len().min(*left);
                    src.advance(there);
                    *left -= there;
                    if *left > 0 {
                        return Ok(None);
                    }
                    let event = then.clone();
                    self.state = State::Head;
                    return Ok(Some(event));
                }
                State::Data { stream, left, last } => {
                    let there = src.len().min(*left).min(PIECE);
                    if there == 0 && *left > 0 {
                        return Ok(None);
                    }
                    *left -= there;
                    let ended = *left == 0;
                    let event = Event::Data {
                        stream: *stream,
                        bytes: src.split_to(there).freeze(),
                        last: ended && *last,
                    };
                    if ended {
                        self.state = State::Head;
                    }
                    return Ok(Some(event));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(chunks: &[&[u8]]) -> std::io::Result<Vec<Event>> {
        let mut frames = Frames::default();
        let (mut src, mut out) = (BytesMut::new(), Vec::new());
        for chunk in chunks {
            src.extend_from_slice(chunk);
            while let Some(event) = frames.decode(&mut src)? {
                out.push(event);
            }
        }
        Ok(out)
    }

    #[test]
    fn a_stream_is_opened_with_headers_that_any_inflater_reads() {
        let mut opener = Opener::default();
        let mut inflater = flate2::Decompress::new(false);
        for (i, kind) in ["error", "stdin", "resize"].into_iter().enumerate() {
            let (id, frame) = opener.open("streamtype", kind);
            assert_eq!(id as usize, 2 * i + 1);
            assert_eq!(frame[..4], [0x80, 3, 0, 1]);
            assert_eq!(word(&frame, 4).unwrap() as usize, frame.len() - 8);
            assert_eq!(word(&frame, 8), Some(id));
            let mut block = &frame[18..];
            if i == 0 {
                // The head that all implementations of SPDY/3 begin with, but for the level of compression.
                assert_eq!(
                    (block[0], block[1] & 0x20, word(block, 2)),
                    (0x78, 0x20, Some(0xe3c6_a7c2))
                );
                assert_eq!((u16::from(block[0]) << 8 | u16::from(block[1])) % 31, 0);
                block = &block[6..];
            }
            let mut headers = Vec::with_capacity(1000);
            inflater
                .decompress_vec(block, &mut headers, flate2::FlushDecompress::Sync)
                .unwrap();
            let text = [
                &[0, 0, 0, 1, 0, 0, 0, 10],
                b"streamtype".as_slice(),
                &[0, 0, 0, u8::try_from(kind.len()).unwrap()],
                kind.as_bytes(),
            ]
            .concat();
            assert_eq!(headers, text);
        }
    }

    #[test]
    fn a_servers_frames_are_told_apart() {
        let wire = [
            control(4, 0, &[0, 0, 0, 0]),
            control(SYN_REPLY, 0, &[0, 0, 0, 1, 9, 9, 9]),
            data(1, b"abc", false).to_vec(),
            data(3, b"", true).to_vec(),
            ping(2).to_vec(),
            control(9, 0, &[0; 8]),
            control(RST_STREAM, 0, &[0, 0, 0, 5, 0, 0, 0, 5]),
            control(GO_AWAY, 0, &[0; 8]),
        ]
        .concat();
        let expected = [
            Event::Other,
            Event::Reply { stream: 1, last: false },
            Event::Data {
                stream: 1,
                bytes: Bytes::from_static(b"abc"),
                last: false,
            },
            Event::Data {
                stream: 3,
                bytes: Bytes::new(),
                last: true,
            },
            Event::Ping { id: 2 },
            Event::Other,
            Event::Reset { stream: 5 },
            Event::GoAway,
        ];
        assert_eq!(all(&[&wire]).unwrap(), expected);
    }

    #[test]
    fn what_is_no_spdy_is_refused() {
        assert!(all(&[&[0x80, 2, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1]]).is_err());
        assert!(all(&[&data(0, b"x", false)]).is_err());
        assert!(all(&[&[0x80, 3, 0, 8, 0, 0xff, 0xff, 0xff]]).is_err());
        assert!(all(&[&control(PING, 0, &[1])]).is_err());
    }

    proptest! {
        #[test]
        fn bytes_of_streams_come_out_as_they_went_in_however_they_are_cut(
            sent in prop::collection::vec((1u32..0x7fff_ffff, prop::collection::vec(any::<u8>(), 0..200), any::<bool>()), 0..8),
            cuts in prop::collection::vec(1usize..50, 1..30),
        ) {
            let mut wire = Vec::new();
            for (stream, bytes, last) in &sent {
                wire.extend(data(*stream, bytes, *last));
                wire.extend(ping(*stream));
            }
            let mut chunks = Vec::new();
            let mut rest = wire.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (chunk, more) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            let mut events = all(&chunks).unwrap().into_iter().peekable();
            for (number, bytes, ends) in &sent {
                let (mut whole, mut ended) = (Vec::new(), false);
                while let Some(Event::Data { stream, bytes, last }) = events.next_if(|e| matches!(e, Event::Data { .. })) {
                    prop_assert_eq!(stream, *number);
                    prop_assert!(!ended);
                    whole.extend_from_slice(&bytes);
                    ended = last;
                }
                prop_assert_eq!(&whole, bytes);
                prop_assert_eq!(ended, *ends);
                prop_assert_eq!(events.next(), Some(Event::Ping { id: *number }));
            }
            prop_assert_eq!(events.next(), None);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = all(&[&bytes]);
        }
    }
}
