//! [`Api`]: everything that handlers share. Made once by [`crate::app`]; nothing in it changes afterwards except what
//! its members guard themselves.

use std::sync::Arc;
use std::time::Duration;

use steersman_admission::Chain;
use steersman_auth::authn::Authenticator;
use steersman_auth::authz::Authorizer;
use steersman_auth::authz::rbac::Rbac;
use steersman_auth::token::{Issuer, VerifyKey};
use steersman_storage::cache::{self, Cache};
use steersman_storage::{Store, store};
use tokio_util::sync::CancellationToken;

use crate::flags::Options;
use crate::health::Health;
use crate::kubelet::Kubelets;
use crate::limits::Limits;
use crate::lister::CacheLister;
use crate::metrics::Metrics;
use crate::resources::Resources;
use crate::services::Services;
use crate::store_health::StoreHealth;

/// The server without its socket.
pub struct Api {
    pub options: Options,
    pub store: Arc<dyn Store>,
    pub cache: Arc<Cache>,
    pub resources: Arc<Resources>,
    pub lister: Arc<CacheLister>,
    pub authenticator: Authenticator,
    pub authorizer: Arc<dyn Authorizer>,
    pub admission: Chain,
    pub issuer: Issuer,
    /// Every key that tokens of this cluster may be signed with.
    pub token_keys: Vec<VerifyKey>,
    pub kubelets: Kubelets,
    pub services: Services,
    pub limits: Limits,
    pub metrics: Metrics,
    pub health: Health,
    pub store_health: Arc<StoreHealth>,
    pub rbac: Arc<Rbac>,
    /// Set when the server is about to stop: watches end, new connections are told to go elsewhere.
    pub draining: CancellationToken,
    /// `--request-timeout`.
    pub request_timeout: Duration,
    /// `host:port` that clients are told in discovery.
    pub external_address: String,
    /// `--advertise-address`, or the address of the default route.
    pub advertised: std::net::IpAddr,
}

/// How long a consistent read may take: with the time for everything else, less than the ten seconds after which a
/// request without store must have failed.
const FRESH_PATIENCE: Duration = Duration::from_secs(9);

impl Api {
    /// Waits until the cache shows everything that was written before the call.
    ///
    /// # Errors
    /// When the store cannot say its revision in time, or the cache does not catch up.
    pub async fn fresh(&self) -> Result<(), cache::Error> {
        fresh(&self.cache).await
    }
}

/// [`Api::fresh`], for those who have only the cache.
///
/// # Errors
/// When the store cannot say its revision in time, or the cache does not catch up.
pub async fn fresh(cache: &Cache) -> Result<(), cache::Error> {
    match tokio::time::timeout(FRESH_PATIENCE, cache.fresh()).await {
        Ok(outcome) => outcome.map(|_| ()),
        Err(_) => Err(cache::Error::Store(store::Error::Timeout(
            "no consistent read in time".to_owned(),
        ))),
    }
}
