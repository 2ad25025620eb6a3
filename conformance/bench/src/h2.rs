//! Many streams over few HTTP/2 connections, as a cluster's own clients have them.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use steersman_conformance::Cluster;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// One connection to the API server as the administrator; clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    authority: String,
}

impl Connection {
    pub async fn open(cluster: &Cluster) -> Result<Self> {
        let kubeconfig = std::fs::read_to_string(cluster.kubeconfig())?;
        let server = kubeconfig
            .lines()
            .find_map(|l| l.trim().strip_prefix("server: https://"));
        let authority = server
            .context("the kubeconfig names no https server")?
            .trim()
            .to_owned();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(cluster.pki("ca.crt"))?)?;
        let certificate = CertificateDer::from_pem_file(cluster.pki("admin.crt"))?;
        let key = PrivateKeyDer::from_pem_file(cluster.pki("admin.key"))?;
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(&authority).await?;
        stream.set_nodelay(true)?;
        let host = authority
            .rsplit_once(':')
            .map_or(authority.as_str(), |(host, _)| host)
            .to_owned();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(host)?, stream)
            .await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await?;
        // Ends with its last user, or with the server; either shows in the streams.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, authority })
    }

    /// A GET whose body is read piece by piece.
    pub async fn get(&mut self, path: &str) -> Result<Lines> {
        let request = Request::get(format!("https://{}{path}", self.authority)).header("accept", "application/json");
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Empty::new())?).await?;
        let status = response.status();
        if !status.is_success() {
            let body = response.into_body().collect().await?.to_bytes();
            bail!("GET {path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(Lines {
            body: response.into_body(),
            buffer: Vec::new(),
            done: 0,
        })
    }
}

/// The lines of a body, as they come.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were given out.
    done: usize,
}

impl Lines {
    /// The next line without its end, or `None` at the end of the body.
    pub async fn next(&mut self) -> Result<Option<&[u8]>> {
        self.buffer.drain(..self.done);
        self.done = 0;
        let mut searched = 0;
        loop {
            if let Some(at) = self
                .buffer
                .get(searched..)
                .and_then(|rest| rest.iter().position(|b| *b == b'\n'))
            {
                self.done = searched + at + 1;
                return Ok(self.buffer.get(..searched + at));
            }
            searched = self.buffer.len();
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
