//! HTTP GET as probes and hooks make it: no proxy, no certificate check, a few bytes of the answer. [`fetch`] is for
//! those who want more of it, from whom they trust.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Outcome;
use super::tcp::{address, refusal};

/// At most this much of an answer is read (upstream: 10 KB).
const MAX_BODY: usize = 10 << 10;
const MAX_REDIRECTS: usize = 10;

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    pub https: bool,
    pub host: String,
    pub port: u16,
    /// With its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Get {
    fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", address(&self.host, self.port), self.target())
    }

    fn target(&self) -> String {
        if self.path.starts_with('/') {
            self.path.clone()
        } else {
            format!("/{}", self.path)
        }
    }
}

/// An answer's status and the beginning of its body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    pub body: String,
    /// Nothing more was to come.
    pub complete: bool,
}

/// Succeeds on 200 to 399. Redirects on the same host are followed; one to another host is success with a warning.
pub async fn probe(get: &Get, timeout: Duration) -> Outcome {
    let url = get.url();
    match tokio::time::timeout(timeout, followed(get.clone())).await {
        Err(_) => Outcome::Failure(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
        Ok(Err(e)) => Outcome::Failure(format!("Get {url:?}: {e}")),
        Ok(Ok(answer)) if (300..400).contains(&answer.status) => {
            Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body))
        }
        Ok(Ok(answer)) if (200..300).contains(&answer.status) => Outcome::Success,
        Ok(Ok(answer)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.status)),
    }
}

async fn followed(mut get: Get) -> Result<Answer, String> {
    for _ in 0..MAX_REDIRECTS {
        let answer = send(&get).await?;
        let next = (300..400)
            .contains(&answer.status)
            .then(|| answer.location.clone())
            .flatten();
        match next {
            Some(path) if path.starts_with('/') && !path.starts_with("//") => get.path = path,
            Some(url) => match same_host(&get, &url) {
                Some(path) => get.path = path,
                None => return Ok(answer),
            },
            None => return Ok(answer),
        }
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

/// The path of an absolute URL, if it is on the host that was asked.
fn same_host(get: &Get, url: &str) -> Option<String> {
    let uri: hyper::Uri = url.parse().ok()?;
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let same = uri.host() == Some(get.host.as_str()) && port == get.port && https == get.https;
    same.then(|| uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string))
}

/// One request. No redirects.
///
/// # Errors
/// In Go's words where they are common.
pub async fn send(get: &Get) -> Result<Answer, String> {
    fetch(get, MAX_BODY, None).await
}

/// One request, of whose answer's body at most `limit` bytes are read. `trusted`: who must vouch for the server, if
/// anybody. No redirects.
///
/// # Errors
/// As [`send`].
pub async fn fetch(get: &Get, limit: usize, trusted: Option<RootCertStore>) -> Result<Answer, String> {
    let stream = tokio::net::TcpStream::connect((get.host.as_str(), get.port))
        .await
        .map_err(|e| refusal(&get.host, get.port, &e))?;
    if !get.https {
        return exchange(stream, get, limit).await;
    }
    let name = ServerName::try_from(get.host.clone()).map_err(|e| e.to_string())?;
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let config = match trusted {
        Some(roots) => config.with_root_certificates(roots),
        None => config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate)),
    };
    let config = config.with_no_client_auth();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|e| e.to_string())?;
    exchange(stream, get, limit).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    get: &Get,
    limit: usize,
) -> Result<Answer, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let result = async {
        let mut request = Request::builder().method("GET").uri(get.target());
        let own = |name: &str| get.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        if !own("host") {
            request = request.header("Host", address(&get.host, get.port));
        }
        if !own("user-agent") {
            request = request.header("User-Agent", "kube-probe/1.36");
        }
        if !own("accept") {
            request = request.header("Accept", "*/*");
        }
        request = request.header("Connection", "close");
        for (name, value) in &get.headers {
            // An empty value of these two means: do not send it.
            if !(value.is_empty() && (name.eq_ignore_ascii_case("accept") || name.eq_ignore_ascii_case("user-agent"))) {
                request = request.header(name.as_str(), value.as_str());
            }
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = response.status().as_u16();
        let location = response
            .headers()
            .get("location")
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        let mut body = response.into_body();
        let mut read = Vec::new();
        let complete = loop {
            match body.frame().await {
                None => break true,
                Some(Err(_)) => break false,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        read.extend_from_slice(&data);
                    }
                }
            }
            if read.len() > limit {
                read.truncate(limit);
                break false;
            }
        };
        Ok(Answer {
            status,
            location,
            body: String::from_utf8_lossy(&read).into_owned(),
            complete,
        })
    }
    .await;
    driver.abort();
    result
}

fn broken(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() {
        "EOF".into()
    } else {
        error.to_string()
    }
}

/// A pod's server may have any certificate: the probe asks for health, not for identity.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that gives each connection the next of `answers`.
    async fn server(answers: Vec<&'static str>) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    async fn check(answers: Vec<&'static str>) -> Outcome {
        let port = server(answers).await;
        let get = Get {
            https: false,
            host: "127.0.0.1".into(),
            port,
            path: "/healthz".into(),
            headers: Vec::new(),
        };
        probe(&get, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn status_codes_and_redirects_decide() {
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(check(vec![ok]).await, Outcome::Success);
        let bad = check(vec!["HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"]).await;
        assert_eq!(bad, Outcome::Failure("HTTP probe failed with statuscode: 500".into()));
        let local = "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(check(vec![local, ok]).await, Outcome::Success);
        let away = "HTTP/1.1 302 Found\r\nLocation: http://example.invalid/\r\nContent-Length: 1\r\n\r\nx";
        let text = "Probe terminated redirects, Response body: x";
        assert_eq!(check(vec![away]).await, Outcome::Warning(text.into()));
    }

    #[tokio::test]
    async fn a_refused_connection_reads_as_in_go() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let get = Get {
            https: false,
            host: "127.0.0.1".into(),
            port,
            path: "x".into(),
            headers: Vec::new(),
        };
        let text = format!("Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(probe(&get, Duration::from_secs(1)).await, Outcome::Failure(text));
    }
}
