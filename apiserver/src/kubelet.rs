//! Connections to kubelets (and to pods and services, for the proxy subresources): one connection per request, TLS with
//! our client certificate and a checked server certificate towards kubelets, HTTP/1.1, upgrades passed through.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use steersman_schema::status::Status;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::{Body, RequestBody};
use crate::flags::Network;
use crate::tls;

/// The kubelet's port when the node does not say.
const DEFAULT_PORT: u16 = 10250;

/// How kubelets are reached.
pub struct Kubelets {
    connector: Option<TlsConnector>,
    preferred: Vec<String>,
    timeout: Duration,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// `https` is a kubelet or a pod that speaks TLS.
    pub scheme: Scheme,
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    /// With our client certificate, and the server's checked against `--kubelet-certificate-authority`.
    Kubelet,
    /// A pod or service: nobody can say which authority signed its certificate, so it is not checked (as upstream), and
    /// we do not show ours.
    Https,
}

impl Kubelets {
    /// Reads the files of the `--kubelet-*` flags.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn build(flags: &Network) -> Result<Self, String> {
        let connector = match &flags.kubelet_certificate_authority {
            Some(ca) => Some(connector(
                ca,
                flags.kubelet_client_certificate.as_deref(),
                flags.kubelet_client_key.as_deref(),
            )?),
            None => None,
        };
        Ok(Self {
            connector,
            preferred: flags.kubelet_preferred_address_types.clone(),
            timeout: flags.kubelet_timeout.0,
        })
    }

    /// Host and port of a node's kubelet, by the order of `--kubelet-preferred-address-types`.
    ///
    /// # Errors
    /// When the node has no usable address.
    pub fn address(&self, node: &Value) -> Result<(String, u16), Status> {
        let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
        let of_type = |wanted: &str| {
            let found = addresses
                .into_iter()
                .flatten()
                .find(|a| a["type"].as_str() == Some(wanted))?;
            found["address"].as_str().filter(|a| !a.is_empty()).map(str::to_owned)
        };
        let host = self.preferred.iter().find_map(|kind| of_type(kind)).ok_or_else(|| {
            let found: Vec<&str> = addresses
                .into_iter()
                .flatten()
                .filter_map(|a| a["type"].as_str())
                .collect();
            Status::internal(format!("no preferred addresses found; known addresses: {found:?}"))
        })?;
        let port = node
            .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
            .and_then(Value::as_u64)
            .unwrap_or(0);
        Ok((
            host,
            u16::try_from(port).ok().filter(|p| *p != 0).unwrap_or(DEFAULT_PORT),
        ))
    }

    /// Sends a request and hands back the answer, its body unread.
    ///
    /// # Errors
    /// 500 or 503 when nobody answers; the text says who was asked.
    pub async fn send(
        &self,
        to: &Destination,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Status> {
        let authority = if to.host.parse::<std::net::Ipv6Addr>().is_ok() {
            format!("[{}]:{}", to.host, to.port)
        } else {
            format!("{}:{}", to.host, to.port)
        };
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Status::internal(format!("error dialing backend: {what} {authority}: {error}"))
        };
        *request.uri_mut() = to
            .path
            .parse()
            .map_err(|error| Status::bad_request(format!("bad path: {error}")))?;
        let host = HeaderValue::from_str(&authority).map_err(|error| failed("dial tcp", &error))?;
        request.headers_mut().insert(header::HOST, host);
        let connecting = TcpStream::connect((to.host.as_str(), to.port));
        let tcp = tokio::time::timeout(self.timeout, connecting)
            .await
            .map_err(|_| failed("dial tcp", &"i/o timeout"))?
            .map_err(|error| failed("dial tcp", &error))?;
        tcp.set_nodelay(true).map_err(|error| failed("dial tcp", &error))?;
        match to.scheme {
            Scheme::Http => exchange(tcp, request).await,
            Scheme::Kubelet => {
                let connector = self.connector.as_ref().ok_or_else(|| {
                    failed(
                        "tls",
                        &"no --kubelet-certificate-authority: kubelets cannot be verified",
                    )
                })?;
                let stream = connector
                    .connect(server_name(&to.host)?, tcp)
                    .await
                    .map_err(|error| failed("tls", &error))?;
                exchange(stream, request).await
            }
            Scheme::Https => {
                let stream = unchecked()
                    .connect(server_name(&to.host)?, tcp)
                    .await
                    .map_err(|error| failed("tls", &error))?;
                exchange(stream, request).await
            }
        }
        .map_err(|error| failed("http", &error))
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, Status> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(ip.into()));
    }
    ServerName::try_from(host.to_owned()).map_err(|error| Status::internal(format!("{host}: {error}")))
}

fn connector(ca: &Path, cert: Option<&Path>, key: Option<&Path>) -> Result<TlsConnector, String> {
    let read = |file: &Path| std::fs::read(file).map_err(|error| format!("open {}: {error}", file.display()));
    let parse = |file: &Path, bytes: &[u8]| {
        CertificateDer::pem_slice_iter(bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("{}: {error}", file.display()))
    };
    let mut roots = rustls::RootCertStore::empty();
    for root in parse(ca, &read(ca)?)? {
        roots.add(root).map_err(|error| format!("{}: {error}", ca.display()))?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match (cert, key) {
        (Some(cert), Some(key)) => {
            let chain = parse(cert, &read(cert)?)?;
            let key_der =
                PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| format!("{}: {error}", key.display()))?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|error| format!("{}: {error}", cert.display()))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// For pods that speak TLS with a certificate nobody here can judge.
fn unchecked() -> TlsConnector {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    #[derive(Debug)]
    struct Any(Arc<rustls::crypto::CryptoProvider>);
    impl ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = tls::provider();
    let config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn exchange<S>(stream: S, request: Request<RequestBody>) -> Result<Response<Incoming>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a backend ended");
        }
    });
    sender.send_request(request).await
}

/// The beginning of a backend's answer, without blanks at its end: what it says against a request, for instance.
pub async fn error_text(answer: Response<Incoming>, most: usize) -> String {
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while text.len() < most
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
    }
    text.truncate(most);
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// Headers that belong to one connection and are not passed on.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The client's headers as a backend may see them: no credentials, nothing of our connection.
pub fn forwarded_headers(from: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut headers = from.clone();
    let upgrade_to = headers.get(header::UPGRADE).cloned();
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove(header::AUTHORIZATION);
    let internal: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-") || name.as_str().starts_with("x-remote-"))
        .cloned()
        .collect();
    for name in internal {
        headers.remove(name);
    }
    if upgrade && let Some(value) = upgrade_to {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, value);
    }
    headers
}

/// The backend's answer as ours: its body streamed, or the connection joined when it switched protocols.
pub fn pass_on(mut answer: Response<Incoming>, client: Option<OnUpgrade>) -> Response<Body> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let backend = hyper::upgrade::on(&mut answer);
        let mut response = Response::new(crate::body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = answer.headers().clone();
        if let Some(client) = client {
            tokio::spawn(async move {
                let (Ok(client), Ok(backend)) = (client.await, backend.await) else {
                    return;
                };
                let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                    tracing::debug!(%error, "stream ended");
                }
            });
        }
        return response;
    }
    let (mut parts, body) = answer.into_parts();
    for name in &HOP_BY_HOP {
        parts.headers.remove(name);
    }
    Response::from_parts(parts, body.map_err(std::io::Error::other).boxed_unsync())
}
