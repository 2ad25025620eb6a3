//! The kernel's table of UDP connections: reading it, and taking entries out of it.
//!
//! Callers: [`crate::sync`], after a change that [`crate::stale`] says has made connections stale. Blocking: run it where
//! blocking is allowed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::family::Family;
use crate::netlink::{Attributes, Request, Socket, attribute, attributes};

const SUBSYSTEM: u8 = 1;
const GET: u8 = 1;
const DELETE: u8 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const UDP: u8 = 17;

/// One connection, as far as staleness goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where the client sends to.
    pub wanted: SocketAddr,
    /// Who answers: the endpoint, if the connection was translated.
    pub answers: SocketAddr,
    /// What names the entry to the kernel.
    name: Attributes,
}

impl Flow {
    /// A flow that names nothing, for deciding about.
    #[must_use]
    pub fn new(wanted: SocketAddr, answers: SocketAddr) -> Self {
        Self {
            wanted,
            answers,
            name: Attributes::default(),
        }
    }

    /// Reads an entry; `None` if it is no UDP connection.
    fn read(entry: &[u8]) -> Option<Self> {
        let original = attribute(entry, TUPLE_ORIGINAL)?;
        let (_, wanted) = tuple(original)?;
        let (answers, _) = tuple(attribute(entry, TUPLE_REPLY)?)?;
        let mut name = Attributes::default().bytes(TUPLE_ORIGINAL | 0x8000, original);
        // With its number, a successor with the same addresses is not meant.
        for (kind, value) in attributes(entry).filter(|(kind, _)| matches!(*kind, ID | ZONE)) {
            name = name.bytes(kind, value);
        }
        Some(Self { wanted, answers, name })
    }
}

/// Source and destination of a UDP tuple.
fn tuple(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let protocol = attribute(bytes, TUPLE_PROTOCOL)?;
    if attribute(protocol, 1)? != [UDP] {
        return None;
    }
    let port = |kind| Some(u16::from_be_bytes(*attribute(protocol, kind)?.first_chunk()?));
    let ip = attribute(bytes, TUPLE_IP)?;
    let address = |v4, v6| {
        let short = attribute(ip, v4).and_then(|b| Some(IpAddr::from(Ipv4Addr::from(*b.first_chunk::<4>()?))));
        short.or_else(|| Some(IpAddr::from(Ipv6Addr::from(*attribute(ip, v6)?.first_chunk::<16>()?))))
    };
    Some((
        SocketAddr::new(address(1, 3)?, port(2)?),
        SocketAddr::new(address(2, 4)?, port(3)?),
    ))
}

fn request(family: Family, message: u8, attributes: Attributes) -> Request {
    Request {
        subsystem: SUBSYSTEM,
        message,
        family: family.number(),
        attributes,
    }
}

/// Forgets the connections that `stale` picks, and says how many those were.
///
/// # Errors
/// When the table cannot be read or written; what was forgotten until then stays so.
pub fn forget(family: Family, stale: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    let socket = Socket::open()?;
    let mut found = Vec::new();
    socket.dump(&request(family, GET, Attributes::default()), |entry| {
        found.extend(Flow::read(entry).filter(&stale));
    })?;
    let mut gone = 0;
    for flow in found {
        match socket.request(&request(family, DELETE, flow.name)) {
            Ok(()) => gone += 1,
            // It has gone by itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}
