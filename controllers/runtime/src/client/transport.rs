//! How bytes reach the server.
//!
//! [`Transport`] is the seam: production uses kube's client (HTTP/1.1, TLS by rustls with aws-lc-rs), tests use a
//! server in the same process. URIs are paths; the transport adds scheme, host and credentials.
//!
//! What stays true: a peer that vanished without a word (a cut cable, a machine without power) is found out within
//! [`DEAD`], also by a watch that only listens; a new connection then is tried at once.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use super::error::ConfigError;

pub type TransportError = Box<dyn std::error::Error + Send + Sync>;
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// An answer's body in pieces as they arrive.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, TransportError>> + Send>>;

/// Until a connection must stand, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection is asked whether it is alive when nothing has come for so long, and again after each [`PROBE`].
const QUIET: Duration = Duration::from_secs(15);
const PROBE: Duration = Duration::from_secs(5);
/// A peer that acknowledges nothing for so long is gone. Upstream's clients notice after 45 s, by HTTP/2 pings.
const DEAD: Duration = Duration::from_secs(30);

/// Carries one request. Must not follow redirects, retry or interpret the answer.
pub trait Transport: Send + Sync + 'static {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<BodyStream>, TransportError>>;
}

/// kube's client. It pools connections; a watch occupies one.
pub struct KubeTransport {
    client: kube::Client,
}

impl KubeTransport {
    /// The current context of a kubeconfig: once with its credentials and once without any.
    ///
    /// # Errors
    /// When the file or what it names is missing or malformed.
    pub async fn from_kubeconfig(path: &Path) -> Result<(Self, Self), ConfigError> {
        Self::with_identity(path, None).await
    }

    /// [`KubeTransport::from_kubeconfig`] with the certificate and key of that PEM file instead of the kubeconfig's.
    ///
    /// # Errors
    /// When a file or what it names is missing or malformed.
    pub async fn with_identity(path: &Path, identity: Option<&Path>) -> Result<(Self, Self), ConfigError> {
        // Two providers may be linked into one program; name ours instead of letting rustls guess. The error case is
        // that somebody has already done so.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let load = |reason: String| ConfigError::Load {
            path: path.display().to_string(),
            reason: one_line(&reason),
        };
        let file = Kubeconfig::read_from(path).map_err(|e| load(sources(&e)))?;
        let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(|e| load(sources(&e)))?;
        // Retries are decided by the caller, who knows the deadline.
        config.default_retry = false;
        if let Some(identity) = identity {
            let file = Some(identity.display().to_string());
            let auth = &mut config.auth_info;
            (auth.client_certificate, auth.client_key) = (file.clone(), file);
            (auth.client_certificate_data, auth.client_key_data) = (None, None);
        }
        let server = config.cluster_url.to_string();
        let make = |config: kube::Config| {
            connect(config)
                .map(|client| Self { client })
                .map_err(|e| ConfigError::Client {
                    server: server.clone(),
                    reason: one_line(&sources(&e)),
                })
        };
        let mut anonymous = config.clone();
        anonymous.auth_info = AuthInfo::default();
        Ok((make(config)?, make(anonymous)?))
    }
}

/// kube's client over connections that notice when their peer is gone.
fn connect(config: kube::Config) -> Result<kube::Client, kube::Error> {
    if config.proxy_url.is_some() {
        // What can be done about proxies, and what there is to say, is kube's business.
        return kube::Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(QUIET));
    tcp.set_keepalive_interval(Some(PROBE));
    tcp.set_keepalive_retries(Some(3));
    tcp.set_tcp_user_timeout(Some(DEAD));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let connector = BoxCloneSyncService::new(ServiceBuilder::new().timeout(CONNECT).service(tls));
    let wire = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(wire);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

fn sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Transport for KubeTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<BodyStream>, TransportError>> {
        let client = self.client.clone();
        Box::pin(async move {
            let response = client.send(request.map(Body::from)).await?;
            Ok(response.map(|body| -> BodyStream {
                Box::pin(body.into_data_stream().map_err(|e| -> TransportError { e.into() }))
            }))
        })
    }
}
