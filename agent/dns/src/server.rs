//! The sockets: UDP and TCP on each address that was asked for.
//!
//! What stays true: a query that we can answer ourselves is answered where it is read; forwarded ones and TCP
//! connections are bounded in number, TCP connections also in idle time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_proto::op::Message;
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::answer::{Reply, Transport, Zone, complete, failure, respond};
use crate::forward::Forwarder;
use crate::metrics::DnsMetrics;
use crate::source::Cluster;

const MAX_CONNECTIONS: usize = 512;
const MAX_FORWARDED: usize = 1024;
const IDLE: Duration = Duration::from_secs(10);

/// What answers queries; shared by all sockets.
pub struct Server {
    pub cluster: Cluster,
    pub domain: Name,
    pub forwarder: Forwarder,
    /// Domains that the forwarder has servers of their own for.
    stubs: Vec<Name>,
    pub metrics: DnsMetrics,
    turn: AtomicUsize,
    connections: Arc<Semaphore>,
    forwarded: Arc<Semaphore>,
}

impl Server {
    #[must_use]
    pub fn new(cluster: Cluster, domain: Name, forwarder: Forwarder, metrics: DnsMetrics) -> Self {
        Self {
            cluster,
            domain,
            stubs: forwarder.stubs(),
            forwarder,
            metrics,
            turn: AtomicUsize::new(0),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            forwarded: Arc::new(Semaphore::new(MAX_FORWARDED)),
        }
    }

    /// Listens on `address` and serves in the background until `stop`. Returns the bound address.
    ///
    /// # Errors
    /// When the address is taken or may not be used.
    pub async fn listen(self: &Arc<Self>, address: SocketAddr, stop: &CancellationToken) -> io::Result<SocketAddr> {
        let udp = Arc::new(UdpSocket::bind(address).await?);
        let bound = udp.local_addr()?;
        let tcp = TcpListener::bind(bound).await?;
        let (server, stopped) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! { () = server.serve_udp(udp) => {}, () = stopped.cancelled() => {} }
        });
        let (server, stopped) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! { () = server.serve_tcp(tcp) => {}, () = stopped.cancelled() => {} }
        });
        Ok(bound)
    }

    fn respond(&self, query: &[u8], transport: Transport) -> Reply {
        let serial = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let zone = Zone {
            source: &self.cluster,
            domain: &self.domain,
            synced: self.cluster.synced(),
            forwards: self.forwarder.knows_everything(),
            stubs: &self.stubs,
            // Serial numbers wrap around by definition.
            serial: u32::try_from(serial & u64::from(u32::MAX)).unwrap_or_default(),
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let reply = respond(&zone, query, transport);
        self.metrics.answered(transport, &reply);
        reply
    }

    /// The bytes to send, after asking others if need be.
    async fn finished(&self, reply: Reply, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match reply {
            Reply::Answer(answer) => Some(answer),
            Reply::Silence => None,
            Reply::Forward => {
                let name = Message::from_vec(query).ok()?.queries.first()?.name().clone();
                let answer = self.forwarder.ask(&name, query, transport).await;
                // An answer at once, even if it is none, lets the client go on to its next server.
                answer.or_else(|| failure(query))
            }
            Reply::Complete(partial) => {
                let found = self.forwarder.ask(&partial.target, &partial.query, transport).await;
                Some(found.map_or_else(|| partial.answer.clone(), |found| complete(&partial, &found)))
            }
        }
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // An ICMP error about an earlier answer arrives this way: nothing is wrong with the socket.
                    debug!(%error, "receiving");
                    continue;
                }
            };
            let query = buffer.get(..length).unwrap_or_default();
            match self.respond(query, Transport::Udp) {
                Reply::Answer(answer) => {
                    // A client that cannot be reached asks again or does not.
                    let _ = socket.send_to(&answer, client).await;
                }
                reply @ (Reply::Forward | Reply::Complete(_)) => {
                    let Ok(slot) = self.forwarded.clone().try_acquire_owned() else {
                        continue;
                    };
                    let (server, socket, query) = (self.clone(), socket.clone(), query.to_vec());
                    tokio::spawn(async move {
                        if let Some(answer) = server.finished(reply, &query, Transport::Udp).await {
                            let _ = socket.send_to(&answer, client).await;
                        }
                        drop(slot);
                    });
                }
                Reply::Silence => {}
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely: give the others a moment to close theirs.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(slot) = self.connections.clone().try_acquire_owned() else {
                continue;
            };
            let server = self.clone();
            tokio::spawn(async move {
                if let Err(error) = server.connection(stream).await {
                    debug!(%error, "connection");
                }
                drop(slot);
            });
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let read = async {
                let length = stream.read_u16().await?;
                let mut query = vec![0; usize::from(length)];
                stream.read_exact(&mut query).await?;
                Ok::<_, io::Error>(query)
            };
            let query = match tokio::time::timeout(IDLE, read).await {
                Ok(Ok(query)) => query,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            let reply = self.respond(&query, Transport::Tcp);
            let Some(answer) = self.finished(reply, &query, Transport::Tcp).await else {
                return Ok(());
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes()[..], &answer].concat();
            tokio::time::timeout(IDLE, stream.write_all(&framed))
                .await
                .map_err(io::Error::other)??;
        }
    }
}
