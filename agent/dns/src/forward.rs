//! Asking other servers about names outside the cluster. Only used when upstream servers are configured.
//!
//! [`Forwarder::ask`] tries the servers in turn, beginning with the one that answered last, until one does or the time is
//! over. What stays true: an answer is taken only from the server that was asked, with the identifier and the question
//! that were sent. What it does not do: caching; asking again over TCP after a truncated answer (clients do that, and
//! are then served over TCP to the end).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

use crate::answer::Transport;

/// How long one server may take for one try.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often each server is tried.
const ROUNDS: usize = 3;
/// How long all of it may take: resolvers usually wait for five seconds.
const LIMIT: Duration = Duration::from_millis(4500);

/// Servers for the names below a domain.
pub struct Route {
    /// The root for everything.
    pub domain: Name,
    pub servers: Vec<SocketAddr>,
    /// Index of the one that answered last.
    good: AtomicUsize,
}

impl Route {
    #[must_use]
    pub fn new(domain: Name, servers: Vec<SocketAddr>) -> Self {
        Self {
            domain,
            servers,
            good: AtomicUsize::new(0),
        }
    }
}

/// All routes; the longest domain wins.
pub struct Forwarder(Vec<Route>);

impl Forwarder {
    #[must_use]
    pub fn new(mut routes: Vec<Route>) -> Self {
        routes.retain(|route| !route.servers.is_empty());
        routes.sort_by_key(|route| std::cmp::Reverse(route.domain.num_labels()));
        Self(routes)
    }

    /// Whether every name can be asked.
    #[must_use]
    pub fn knows_everything(&self) -> bool {
        self.0.iter().any(|route| route.domain.is_root())
    }

    /// Domains with servers of their own.
    #[must_use]
    pub fn stubs(&self) -> Vec<Name> {
        let domains = self.0.iter().map(|route| &route.domain);
        domains.filter(|domain| !domain.is_root()).cloned().collect()
    }

    /// An upstream server's answer to `query`, which asks for `name`, with the query's own identifier; `None` if nobody
    /// answers in time.
    pub async fn ask(&self, name: &Name, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let route = self.0.iter().find(|route| route.domain.zone_of(name))?;
        let (id, rest) = query.split_first_chunk::<2>()?;
        let end = Instant::now() + LIMIT;
        let first = route.good.load(Ordering::Relaxed);
        for turn in 0..ROUNDS * route.servers.len() {
            let index = (first + turn) % route.servers.len();
            let left = end.saturating_duration_since(Instant::now());
            let server = route.servers.get(index).filter(|_| !left.is_zero())?;
            // A fresh identifier and a fresh port: an answer cannot be guessed from ours.
            let fresh: [u8; 2] = rand::random();
            let sent = [&fresh[..], rest].concat();
            let work = async {
                match transport {
                    Transport::Udp => udp(*server, &sent).await,
                    Transport::Tcp => tcp(*server, &sent).await,
                }
            };
            match tokio::time::timeout(PATIENCE.min(left), work).await {
                Ok(Ok(mut answer)) => {
                    route.good.store(index, Ordering::Relaxed);
                    if let Some(start) = answer.get_mut(..2) {
                        start.copy_from_slice(id);
                    }
                    return Some(answer);
                }
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, "upstream");
                    // A server that refuses at once must not be asked in a tight circle.
                    if (turn + 1) % route.servers.len() == 0 {
                        tokio::time::sleep(Duration::from_millis(200).min(left)).await;
                    }
                }
                Err(_) => tracing::debug!(%server, "no answer from upstream"),
            }
        }
        None
    }
}

/// Same identifier, a response, and the same question.
fn answers(answer: &[u8], query: &[u8]) -> bool {
    let same = match (question(answer), question(query)) {
        (Some(theirs), Some(ours)) => theirs.eq_ignore_ascii_case(ours),
        // A refusal may come without the question.
        (None, _) => answer.get(4..6) == Some(&[0, 0][..]),
        _ => false,
    };
    same && answer.len() >= 12
        && answer.get(..2) == query.get(..2)
        && answer.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

/// The bytes of the first question: name, type, class.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? == [0, 0] {
        return None;
    }
    let rest = message.get(12..)?;
    let mut at = 0;
    loop {
        match *rest.get(at)? {
            0 => return rest.get(..at + 5),
            length if length < 64 => at += usize::from(length) + 1,
            _ => return None,
        }
    }
}

async fn udp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        // Anything else is somebody's guess: the real answer may still come.
        if answers(answer, query) {
            return Ok(answer.to_vec());
        }
    }
}

async fn tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    if answers(&buffer, query) {
        Ok(buffer)
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_to_what_was_asked_counts() {
        let message =
            |id: u8, flags: u8, name: &[u8]| [&[0, id, flags, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, &[0, 1, 0, 1]].concat();
        let query = message(7, 1, b"\x01a\x03org\0");
        assert!(answers(&message(7, 0x81, b"\x01A\x03org\0"), &query));
        assert!(
            !answers(&message(8, 0x81, b"\x01a\x03org\0"), &query),
            "another identifier"
        );
        assert!(
            !answers(&message(7, 0x81, b"\x01b\x03org\0"), &query),
            "another question"
        );
        assert!(!answers(&message(7, 1, b"\x01a\x03org\0"), &query), "no response");
        for end in 0..query.len() {
            assert!(!answers(query.get(..end).unwrap_or_default(), &query));
        }
    }
}
