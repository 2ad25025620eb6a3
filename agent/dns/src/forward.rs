//! Asking other servers about names outside the cluster. Only used when upstream servers are configured.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::answer::Transport;

/// How long one upstream server may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first upstream server's answer, with the query's own identifier; `None` if none answers in time.
pub async fn ask(upstreams: &[SocketAddr], query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let (id, rest) = query.split_first_chunk::<2>()?;
    for server in upstreams {
        // A fresh identifier and a fresh port: an answer cannot be guessed from ours.
        let fresh: [u8; 2] = rand::random();
        let sent = [&fresh[..], rest].concat();
        let work = async {
            match transport {
                Transport::Udp => udp(*server, &sent).await,
                Transport::Tcp => tcp(*server, &sent).await,
            }
        };
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(Ok(mut answer)) if answers(&answer, &sent) => {
                if let Some(start) = answer.get_mut(..2) {
                    start.copy_from_slice(id);
                }
                return Some(answer);
            }
            Ok(Err(error)) => tracing::debug!(%server, %error, "upstream"),
            _ => tracing::debug!(%server, "no answer from upstream"),
        }
    }
    None
}

/// Same identifier, and a response.
fn answers(answer: &[u8], query: &[u8]) -> bool {
    answer.len() >= 12 && answer.get(..2) == query.get(..2) && answer.get(2).is_some_and(|flags| flags & 0x80 != 0)
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
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).await?;
    buffer.truncate(length);
    Ok(buffer)
}

async fn tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(query).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    Ok(buffer)
}
