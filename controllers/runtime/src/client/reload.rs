//! A transport whose identity may be changed while it is in use: a certificate is renewed before it expires.
//!
//! Requests under way, watches among them, end on the connection on which they began.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use parking_lot::RwLock;

use super::error::ConfigError;
use super::transport::{BodyStream, BoxFuture, KubeTransport, Transport, TransportError};

/// Where the transport comes from; asked to read it again.
#[derive(Clone)]
pub struct Reloader {
    path: PathBuf,
    identity: Option<PathBuf>,
    current: Arc<Current>,
    anonymous: Arc<KubeTransport>,
}

struct Current {
    transport: RwLock<Arc<KubeTransport>>,
}

impl Reloader {
    /// Reads the kubeconfig, and the identity if that file exists.
    pub(super) async fn open(path: &Path, identity: Option<PathBuf>) -> Result<Self, ConfigError> {
        let own = identity.as_deref().filter(|i| i.exists());
        let (transport, anonymous) = KubeTransport::with_identity(path, own).await?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            current: Arc::new(Current {
                transport: RwLock::new(Arc::new(transport)),
            }),
            anonymous: Arc::new(anonymous),
        })
    }

    pub(super) fn transport(&self) -> Arc<dyn Transport> {
        self.current.clone()
    }

    pub(super) fn anonymous(&self) -> Arc<dyn Transport> {
        self.anonymous.clone()
    }

    /// Reads the files again: new connections have what they say now.
    ///
    /// # Errors
    /// When they cannot be read; everything stays as it is then.
    pub async fn reload(&self) -> Result<(), ConfigError> {
        let own = self.identity.as_deref().filter(|i| i.exists());
        let (transport, _) = KubeTransport::with_identity(&self.path, own).await?;
        *self.current.transport.write() = Arc::new(transport);
        Ok(())
    }
}

impl Transport for Current {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<BodyStream>, TransportError>> {
        let transport = self.transport.read().clone();
        Box::pin(async move { transport.send(request).await })
    }
}
