//! Plain HTTPS to one API server or another, as one client session sees it: a connection per server, no retries of its own.
//!
//! With a [`Mutation`] it lies: that is how the checker is shown to find what it should.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use crate::cluster::pki::Pki;
use crate::mutation::{Liar, Mutation};

/// A line of a watch is at most this long.
const LONGEST_LINE: usize = 8 << 20;

/// What every session shares.
#[derive(Clone)]
pub struct Servers {
    pub urls: Arc<[String]>,
    tls: Arc<ClientConfig>,
    pub mutation: Option<Mutation>,
}

impl Servers {
    /// As the administrator, by client certificate.
    pub fn new(urls: Vec<String>, pki: &Pki, mutation: Option<Mutation>) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pki.read("ca.crt")?) {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pki.read("admin.crt")?).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pki.read("admin.key")?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self {
            urls: urls.into(),
            tls: Arc::new(tls),
            mutation,
        })
    }
}

/// One client's connections.
pub struct Wire {
    servers: Servers,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    liar: Option<Liar>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub code: u16,
    pub body: Value,
}

impl Reply {
    /// `reason` of a Status.
    #[must_use]
    pub fn reason(&self) -> String {
        self.body
            .pointer("/reason")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    #[must_use]
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum NoAnswer {
    /// The request never left.
    Unsent,
    /// It may have been processed.
    Lost(String),
}

impl Wire {
    /// `number` tells sessions apart: every second one speaks HTTP/2.
    #[must_use]
    pub fn new(servers: &Servers, number: u32) -> Self {
        let builder = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config((*servers.tls).clone())
            .https_only();
        let connector = if number.is_multiple_of(2) {
            builder.enable_http1().build()
        } else {
            builder.enable_http2().build()
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(2)
            .retry_canceled_requests(false)
            .build(connector);
        let liar = servers.mutation.map(|mutation| Liar::new(mutation, number));
        Self {
            servers: servers.clone(),
            client,
            liar,
        }
    }

    fn request(
        &self,
        server: usize,
        method: &Method,
        path: &str,
        media: &str,
        body: &Value,
    ) -> Result<Request<Full<Bytes>>, NoAnswer> {
        let body = if body.is_null() {
            Bytes::new()
        } else {
            Bytes::from(body.to_string())
        };
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.servers.urls[server]))
            .header("accept", "application/json")
            .header("content-type", media)
            .body(Full::new(body))
            .map_err(|_| NoAnswer::Unsent)
    }

    /// One request and its whole answer.
    pub async fn send(
        &mut self,
        server: usize,
        method: Method,
        path: &str,
        media: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<Reply, NoAnswer> {
        let lie = self.liar.as_mut().and_then(|liar| liar.request(&method, path, body));
        let (sent_path, sent_body) = lie.as_ref().map_or((path, body), |(path, body)| (path.as_str(), body));
        let request = self.request(server, &method, sent_path, media, sent_body)?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| {
                if error.is_connect() {
                    NoAnswer::Unsent
                } else {
                    NoAnswer::Lost(error.to_string())
                }
            })?;
            let code = response.status().as_u16();
            let bytes = response
                .into_body()
                .collect()
                .await
                .map_err(|error| NoAnswer::Lost(error.to_string()))?;
            let body = serde_json::from_slice(&bytes.to_bytes()).unwrap_or_default();
            Ok(Reply { code, body })
        };
        let reply = tokio::time::timeout(patience, exchange)
            .await
            .unwrap_or_else(|_| Err(NoAnswer::Lost("no answer in time".into())))?;
        Ok(match &mut self.liar {
            Some(liar) => liar.reply(&method, path, reply),
            None => reply,
        })
    }

    pub async fn get(&mut self, server: usize, path: &str, patience: Duration) -> Result<Reply, NoAnswer> {
        self.send(server, Method::GET, path, "application/json", &Value::Null, patience)
            .await
    }

    /// Opens a watch; a refusal is an answer like any other.
    pub async fn open(
        &mut self,
        server: usize,
        path: &str,
        patience: Duration,
    ) -> Result<Result<Lines, Reply>, NoAnswer> {
        let lie = self
            .liar
            .as_mut()
            .and_then(|liar| liar.request(&Method::GET, path, &Value::Null));
        let path = lie.as_ref().map_or(path, |(path, _)| path.as_str());
        let request = self.request(server, &Method::GET, path, "application/json", &Value::Null)?;
        let opening = async {
            let response = self
                .client
                .request(request)
                .await
                .map_err(|error| NoAnswer::Lost(error.to_string()))?;
            let code = response.status().as_u16();
            if code != 200 {
                let bytes = response
                    .into_body()
                    .collect()
                    .await
                    .map_err(|error| NoAnswer::Lost(error.to_string()))?;
                let body = serde_json::from_slice(&bytes.to_bytes()).unwrap_or_default();
                return Ok(Err(Reply { code, body }));
            }
            Ok(Ok(Lines {
                body: response.into_body(),
                pending: BytesMut::new(),
            }))
        };
        tokio::time::timeout(patience, opening)
            .await
            .unwrap_or_else(|_| Err(NoAnswer::Lost("no answer in time".into())))
    }

    /// What the liar makes of events that arrived.
    pub fn events(&mut self, events: Vec<Value>) -> Vec<Value> {
        match &mut self.liar {
            Some(liar) => liar.events(events),
            None => events,
        }
    }
}

/// The events of a watch.
pub struct Lines {
    body: Incoming,
    pending: BytesMut,
}

/// What a watch does next.
#[derive(Debug)]
pub enum Next {
    Events(Vec<Value>),
    Ended,
    Broken,
}

impl Lines {
    /// The next whole lines. Cancel safe.
    pub async fn next(&mut self) -> Next {
        loop {
            if let Some(end) = self.pending.iter().rposition(|byte| *byte == b'\n') {
                let lines = self.pending.split_to(end + 1);
                let events: Result<Vec<Value>, _> = lines[..]
                    .split(|byte: &u8| *byte == b'\n')
                    .filter(|line| !line.is_empty())
                    .map(serde_json::from_slice)
                    .collect();
                return events.map_or(Next::Broken, Next::Events);
            }
            if self.pending.len() > LONGEST_LINE {
                return Next::Broken;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) => return Next::Broken,
                None => return Next::Ended,
            }
        }
    }
}
