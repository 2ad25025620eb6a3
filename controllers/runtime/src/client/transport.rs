//! How bytes reach the server.
//!
//! [`Transport`] is the seam: production uses kube's client (HTTP/1.1, TLS by rustls with aws-lc-rs), tests use a
//! server in the same process. URIs are paths; the transport adds scheme, host and credentials.

use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};

use super::error::ConfigError;

pub type TransportError = Box<dyn std::error::Error + Send + Sync>;
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// An answer's body in pieces as they arrive.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, TransportError>> + Send>>;

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
        let server = config.cluster_url.to_string();
        let make = |config: kube::Config| {
            kube::Client::try_from(config)
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
