//! Who sends this request? Certificates, front proxy, bearer tokens, and anonymous where the configuration allows it.
//!
//! The request path asks [`Authenticator::authenticate`] once per request; TokenReview asks [`Authenticator::token`]. What
//! stays true: a credential that is present and bad is an error (401), never anonymous; of several credentials the first
//! good one in upstream's order counts (front proxy, certificate, token file, service account, bootstrap token).
//! Nothing here waits or logs a credential.

mod bearer;
mod bootstrap_token;
mod peer;
mod proxy;
mod service_account;
#[cfg(test)]
mod tests;
mod token_file;

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;
use parking_lot::Mutex;

pub use bearer::{PROTOCOL_PREFIX, without_token};
pub use peer::{CaPool, Peer};
pub use proxy::FrontProxy;
pub use service_account::ServiceAccounts;
pub use token_file::TokenFile;

pub(crate) use proxy::unescape;

use crate::lister::Lister;
use crate::user::{User, UserInfo};

/// How long a token that was found good is believed without looking again (upstream's default), seconds.
const TOKEN_SECONDS: i64 = 10;
/// Good tokens remembered at once.
const MAX_TOKENS: usize = 10_000;

/// A user and the audiences that the credential is good for.
#[derive(Clone, Debug)]
pub struct Authentication {
    pub user: User,
    /// Empty when the server has no audiences, or for credentials without.
    pub audiences: Vec<String>,
}

/// A request that does not say who sends it, or says it wrongly: 401.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unauthorized {
    /// For the log; the client only learns `Unauthorized`.
    pub why: String,
    /// The credential names an object that the cache does not have, or has under another uid: it may only be late. The
    /// server waits for its cache once and asks again.
    pub stale: bool,
}

impl Unauthorized {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            stale: false,
        }
    }

    pub(crate) fn stale(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            stale: true,
        }
    }
}

/// Which requests may go without a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// `--anonymous-auth=false`.
    Never,
    /// Only these exact paths.
    Paths(Vec<String>),
    /// `--anonymous-auth=true`: upstream's default, not ours. Authorization still decides.
    Always,
}

impl Anonymous {
    /// The health paths, which load balancers probe: what we do unless told otherwise.
    pub fn health() -> Self {
        Self::Paths(["/livez", "/readyz", "/healthz"].map(str::to_owned).to_vec())
    }

    fn allows(&self, path: &str) -> bool {
        match self {
            Self::Never => false,
            Self::Paths(paths) => paths.iter().any(|p| p == path),
            Self::Always => true,
        }
    }
}

/// What authenticates; an absent part is off.
pub struct Config {
    /// `--client-ca-file`.
    pub client_ca: Option<Arc<CaPool>>,
    pub front_proxy: Option<FrontProxy>,
    /// `--token-auth-file`.
    pub tokens: Option<TokenFile>,
    pub service_accounts: Option<ServiceAccounts>,
    /// `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    pub anonymous: Anonymous,
    /// `--api-audiences`; the service account issuers unless given.
    pub api_audiences: Vec<String>,
}

/// Tells who sends a request.
pub struct Authenticator {
    config: Config,
    objects: Arc<dyn Lister>,
    /// Good tokens by hash, with the second until which they are believed.
    good: Mutex<HashMap<[u8; 32], (Authentication, i64)>>,
}

impl Authenticator {
    pub fn new(config: Config, objects: Arc<dyn Lister>) -> Self {
        Self {
            config,
            objects,
            good: Mutex::default(),
        }
    }

    /// The user of a request on a connection. `path` is the URL's, as sent.
    ///
    /// # Errors
    /// When a credential is bad, or there is none and the path wants one.
    pub fn authenticate(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        path: &str,
        now: Timestamp,
    ) -> Result<Authentication, Unauthorized> {
        let mut faults: Vec<Unauthorized> = Vec::new();
        if let Some(proxy) = &self.config.front_proxy {
            match proxy.user(peer, headers, now) {
                Ok(Some(user)) => return Ok(self.any_audience(user)),
                Ok(None) => {}
                Err(why) => faults.push(Unauthorized::new(why)),
            }
        }
        match self.certificate(peer, now) {
            Ok(Some(user)) => {
                return Ok(Authentication {
                    user,
                    audiences: self.config.api_audiences.clone(),
                });
            }
            Ok(None) => {}
            Err(why) => faults.push(Unauthorized::new(why)),
        }
        if self.takes_tokens() {
            let websocket = bearer::from_websocket(headers);
            let (header, websocket) = (bearer::from_header(headers), websocket.map_err(Unauthorized::new));
            for token in header
                .map(str::to_owned)
                .map(Ok)
                .into_iter()
                .chain(websocket.transpose())
            {
                match token.and_then(|token| self.remembered_token(&token, now)) {
                    Ok(found) => return Ok(found),
                    Err(fault) => faults.push(fault),
                }
            }
        }
        if let Some(first) = faults.first() {
            let stale = faults.iter().any(|f| f.stale);
            let texts = faults.iter().map(|f| f.why.clone()).collect();
            return Err(Unauthorized {
                why: crate::authz::aggregate(texts).unwrap_or_else(|| first.why.clone()),
                stale,
            });
        }
        if self.config.anonymous.allows(path) {
            return Ok(Authentication {
                user: Arc::new(UserInfo::anonymous()),
                audiences: Vec::new(),
            });
        }
        Err(Unauthorized::new("no credentials"))
    }

    /// The user of a token that must be good for one of `audiences` (empty: the server's own).
    ///
    /// # Errors
    /// When nobody knows the token, or it is bad.
    pub fn token(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Authentication, Unauthorized> {
        let wanted = if audiences.is_empty() {
            &self.config.api_audiences
        } else {
            audiences
        };
        let known = self.config.tokens.as_ref().and_then(|file| file.user(token));
        if let Some(found) = known.and_then(|user| self.for_audiences(user, wanted)) {
            return Ok(found);
        }
        let mut fault = None;
        if let Some(accounts) = &self.config.service_accounts {
            match accounts.user(token, wanted, &self.config.api_audiences, self.objects.as_ref(), now) {
                Ok(Some(found)) => return Ok(with_group(found)),
                Ok(None) => {}
                Err(f) => fault = Some(f),
            }
        }
        if self.config.bootstrap_tokens {
            let user = bootstrap_token::user(token, self.objects.as_ref(), now);
            if let Some(found) = user.and_then(|user| self.for_audiences(user, wanted)) {
                return Ok(found);
            }
        }
        Err(fault.unwrap_or_else(|| Unauthorized::new("invalid bearer token")))
    }

    /// Whether the header carries an identity that only the front proxy may set: the server removes these from every
    /// authenticated request before anything behind it sees them.
    pub fn is_identity_header(&self, name: &str) -> bool {
        self.config
            .front_proxy
            .as_ref()
            .is_some_and(|proxy| proxy.is_identity_header(name))
    }

    /// `--api-audiences`.
    pub fn api_audiences(&self) -> &[String] {
        &self.config.api_audiences
    }

    fn takes_tokens(&self) -> bool {
        self.config.tokens.is_some() || self.config.service_accounts.is_some() || self.config.bootstrap_tokens
    }

    fn certificate(&self, peer: &Peer, now: Timestamp) -> Result<Option<User>, String> {
        let Some(pool) = self.config.client_ca.as_ref().filter(|_| !peer.is_none()) else {
            return Ok(None);
        };
        peer.check(pool, now)?;
        peer.user()
    }

    fn remembered_token(&self, token: &str, now: Timestamp) -> Result<Authentication, Unauthorized> {
        let (hash, second) = (token_file::hash(token), now.as_second());
        if let Some((found, until)) = self.good.lock().get(&hash)
            && second < *until
        {
            return Ok(found.clone());
        }
        let found = self.token(token, &[], now)?;
        let mut good = self.good.lock();
        if good.len() >= MAX_TOKENS {
            good.retain(|_, (_, until)| second < *until);
        }
        if good.len() < MAX_TOKENS {
            good.insert(hash, (found.clone(), second + TOKEN_SECONDS));
        }
        Ok(found)
    }

    /// A credential that knows no audiences is good for the server's own.
    fn any_audience(&self, user: UserInfo) -> Authentication {
        with_group(Authentication {
            user: Arc::new(user),
            audiences: self.config.api_audiences.clone(),
        })
    }

    fn for_audiences(&self, user: UserInfo, wanted: &[String]) -> Option<Authentication> {
        let audiences: Vec<String> = self
            .config
            .api_audiences
            .iter()
            .filter(|a| wanted.contains(a))
            .cloned()
            .collect();
        if audiences.is_empty() && !wanted.is_empty() {
            return None;
        }
        Some(with_group(Authentication {
            user: Arc::new(user),
            audiences,
        }))
    }
}

fn with_group(found: Authentication) -> Authentication {
    let user = Arc::unwrap_or_clone(found.user).with_authenticated_group();
    Authentication {
        user: Arc::new(user),
        audiences: found.audiences,
    }
}
