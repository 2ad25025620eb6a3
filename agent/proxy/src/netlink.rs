//! Just enough netlink to talk to netfilter: messages, attributes, dumps, acknowledgements.
//!
//! Callers: [`crate::conntrack`], [`crate::kernel`] and [`crate::batch`]. Blocking, each answer with a time limit. What the kernel sends is
//! read leniently (unknown attributes are passed over), and nothing in it can make this panic. What it does not do:
//! notifications.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// How long the kernel may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Dumps come in pieces of at most 32 KiB.
const BUFFER: usize = 64 << 10;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Attributes that are being written: type, length, value, each padded to four bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // No attribute that we send comes near the limit; a longer one would be refused by the kernel.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number in network order.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Text as the kernel wants it: with a zero at the end.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    #[must_use]
    pub fn nested(self, kind: u16, value: &Self) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The attributes in `bytes`: type and value. Ends where something does not fit.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a type.
#[must_use]
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// One request: the netfilter subsystem's message with an address family (2: IPv4, 10: IPv6).
#[derive(Clone, Debug)]
pub struct Request {
    pub subsystem: u8,
    pub message: u8,
    pub family: u8,
    pub attributes: Attributes,
}

impl Request {
    fn encode(&self, flags: u16) -> Vec<u8> {
        let kind = u16::from(self.subsystem) << 8 | u16::from(self.message);
        let mut out = Vec::with_capacity(20 + self.attributes.as_bytes().len());
        write(&mut out, kind, flags, [self.family, 0, 0, 0], &self.attributes);
        out
    }
}

/// One message: its header, netfilter's own, the attributes.
fn write(out: &mut Vec<u8>, kind: u16, flags: u16, own: [u8; 4], attributes: &Attributes) {
    let body = attributes.as_bytes();
    let length = u32::try_from(16 + own.len() + body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
    // Sequence number and sender: one request at a time on a socket of its own needs neither.
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&own);
    out.extend_from_slice(body);
}

/// A transaction of nftables that is being written.
pub struct Batch {
    bytes: Vec<u8>,
    family: u8,
    /// Where the last message's flags are.
    flags: Option<(usize, u16)>,
}

impl Batch {
    const NFTABLES: u8 = 10;

    #[must_use]
    pub fn new(family: u8) -> Self {
        let mut bytes = Vec::new();
        write(
            &mut bytes,
            BATCH_BEGIN,
            0,
            [0, 0, 0, Self::NFTABLES],
            &Attributes::default(),
        );
        Self {
            bytes,
            family,
            flags: None,
        }
    }

    pub fn push(&mut self, message: u8, flags: u16, attributes: &Attributes) {
        self.flags = Some((self.bytes.len() + 6, REQUEST | flags));
        let kind = u16::from(Self::NFTABLES) << 8 | u16::from(message);
        write(&mut self.bytes, kind, flags, [self.family, 0, 0, 0], attributes);
    }

    /// Its bytes. The last message asks for an answer; refusals of any come unasked.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if let Some((at, flags)) = self.flags
            && let Some(place) = self.bytes.get_mut(at..at + 2)
        {
            place.copy_from_slice(&(flags | ACK).to_ne_bytes());
        }
        write(
            &mut self.bytes,
            BATCH_END,
            0,
            [0, 0, 0, Self::NFTABLES],
            &Attributes::default(),
        );
        self.bytes
    }
}

/// A socket to the kernel's netfilter.
pub struct Socket(OwnedFd);

impl Socket {
    /// # Errors
    /// When there may be no such socket.
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(NETFILTER),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(socket))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        sendto(&self.0, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Sends a request and waits for its acknowledgement.
    ///
    /// # Errors
    /// The kernel's refusal, or that it did not answer.
    pub fn request(&self, request: &Request) -> io::Result<()> {
        self.get(request, |_| {})
    }

    /// Sends a request for a list and calls `each` with the attributes of each item.
    ///
    /// # Errors
    /// As for [`Socket::request`].
    pub fn dump(&self, request: &Request, each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(&request.encode(DUMP))?;
        self.answers(each)
    }

    /// Asks for one thing; `each` gets its attributes.
    ///
    /// # Errors
    /// As for [`Socket::request`]; `NotFound` if there is no such thing.
    pub fn get(&self, request: &Request, each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(&request.encode(ACK))?;
        self.answers(each)
    }

    /// Sends a transaction. The kernel has carried it out, or refused it, when sending returns: all answers are there then.
    ///
    /// # Errors
    /// The first refusal; nothing has changed then.
    pub fn batch(&self, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes)?;
        let mut buffer = vec![0_u8; BUFFER];
        let mut accepted = false;
        loop {
            let length = match recv(&self.0, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, body)) = message(&mut rest) {
                if kind == ERROR {
                    refusal(body)?;
                    accepted = true;
                }
            }
        }
        if accepted {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// Reads until the end of a list or an acknowledgement.
    fn answers(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0_u8; BUFFER];
        loop {
            let (length, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, body)) = message(&mut rest) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => return refusal(body),
                    _ => each(body.get(4..).unwrap_or_default()),
                }
            }
        }
    }
}

/// What an error message says; zero is an acknowledgement.
fn refusal(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Takes one message off the front: its type and what follows its header.
fn message<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
    let body = rest.get(16..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let inner = Attributes::default().bytes(1, &[9]).bytes(2, &[1, 2, 3, 4, 5]);
        let outer = Attributes::default().text(7, "ab").nested(3, &inner);
        assert_eq!(attribute(outer.as_bytes(), 7), Some(&b"ab\0"[..]));
        let nested = attribute(outer.as_bytes(), 3).unwrap_or_default();
        let found: Vec<_> = attributes(nested).collect();
        assert_eq!(found, [(1, &[9][..]), (2, &[1, 2, 3, 4, 5][..])]);
        assert_eq!(attribute(outer.as_bytes(), 9), None);
    }

    #[test]
    fn broken_attributes_end_the_list() {
        for broken in [&[][..], &[1], &[3, 0, 1, 0], &[200, 0, 1, 0, 1], &[0; 8]] {
            assert_eq!(attributes(broken).count(), 0, "{broken:?}");
        }
    }
}
