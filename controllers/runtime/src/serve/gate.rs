//! Who may read a component's port.
//!
//! As upstream's delegated authentication and authorization: a client certificate is checked against the client CA (a
//! file, or what the API server publishes in kube-system/extension-apiserver-authentication), a bearer token by a
//! TokenReview, front-proxy headers against their own CA; then a SubjectAccessReview for the path decides. Members of
//! `system:masters` and the always-allowed paths need no review. Answers are cached for ten seconds (bounded).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use serde_json::{Map, Value, json};
use steersman_types::api::core::v1::ConfigMap;
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tls;
use crate::client::Client;
use crate::flags::ServingFlags;

const CACHE_TIME: Duration = Duration::from_secs(10);
const CACHE_SIZE: usize = 1024;
const LOOKUP_AGAIN: Duration = Duration::from_secs(60);

/// An authenticated caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    /// Sorted by key.
    pub extra: Vec<(String, Vec<String>)>,
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: StatusCode,
    pub message: String,
}

/// What a caller wants, as a SubjectAccessReview's attributes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    Path {
        verb: String,
        path: String,
    },
    /// In the core group unless `group` says otherwise.
    Resource {
        verb: String,
        group: String,
        resource: String,
        subresource: String,
        name: String,
    },
}

impl Wanted {
    /// A non-resource request.
    #[must_use]
    pub fn path(method: &Method, path: &str) -> Self {
        let verb = method.as_str().to_lowercase();
        Self::Path {
            verb,
            path: path.to_owned(),
        }
    }
}

type Verifier = Arc<dyn ClientCertVerifier>;

struct Looked {
    at: Instant,
    verifier: Option<Verifier>,
}

/// See the module.
pub struct Gate {
    allow: Vec<String>,
    client_ca: Option<Verifier>,
    proxy_ca: Option<Verifier>,
    proxy_names: Vec<String>,
    user_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
    tokens: Option<Client>,
    access: Option<Client>,
    /// For the published client CA; `None` with a file or `--authentication-skip-lookup`.
    lookup: Option<Client>,
    looked: tokio::sync::Mutex<Option<Looked>>,
    known_tokens: Mutex<HashMap<String, (Instant, Option<Identity>)>>,
    known_access: Mutex<HashMap<(Identity, Wanted), (Instant, bool)>>,
}

fn verifier(roots: Vec<CertificateDer<'static>>) -> Result<Verifier, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(|e| e.to_string())?;
    }
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::new(tls::provider())).build();
    built.map(|v| v as Verifier).map_err(|e| e.to_string())
}

impl Gate {
    /// `tokens` reviews tokens, `access` reviews access, `lookup` reads the published client CA.
    ///
    /// # Errors
    /// When a CA file is unusable; one line.
    pub fn new(
        flags: &ServingFlags,
        tokens: Option<Client>,
        access: Option<Client>,
        lookup: Client,
    ) -> Result<Self, String> {
        let load = |path: &Option<std::path::PathBuf>| match path {
            None => Ok(None),
            Some(path) => tls::certificates(path).and_then(verifier).map(Some),
        };
        let client_ca = load(&flags.client_ca_file)?;
        let lower = |names: &[String]| names.iter().map(|n| n.to_lowercase()).collect();
        Ok(Self {
            allow: flags.authorization_always_allow_paths.clone(),
            lookup: (client_ca.is_none() && !flags.authentication_skip_lookup && tokens.is_some()).then_some(lookup),
            client_ca,
            proxy_ca: load(&flags.requestheader_client_ca_file)?,
            proxy_names: flags.requestheader_allowed_names.clone(),
            user_headers: lower(&flags.requestheader_username_headers),
            group_headers: lower(&flags.requestheader_group_headers),
            extra_prefixes: lower(&flags.requestheader_extra_headers_prefix),
            tokens,
            access,
            looked: tokio::sync::Mutex::new(None),
            known_tokens: Mutex::default(),
            known_access: Mutex::default(),
        })
    }

    /// A non-resource request: allowed, or how to refuse it.
    ///
    /// # Errors
    /// The refusal.
    pub async fn admit(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), Refusal> {
        if self.allow.iter().any(|allowed| covers(allowed, path)) {
            return Ok(());
        }
        let identity = self.authenticate(headers, chain).await?;
        self.authorize(&identity, Wanted::path(method, path)).await
    }

    /// # Errors
    /// 401 when credentials were given and are wrong. Without credentials the caller is `system:anonymous`.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        chain: &[CertificateDer<'static>],
    ) -> Result<Identity, Refusal> {
        let unauthorized = || Refusal {
            code: StatusCode::UNAUTHORIZED,
            message: "Unauthorized".to_owned(),
        };
        if let Some((leaf, rest)) = chain.split_first() {
            let now = UnixTime::now();
            let signed_by = |ca: &Verifier| ca.verify_client_cert(leaf, rest, now).is_ok();
            let subject = subject(leaf).ok_or_else(unauthorized)?;
            if self.proxy_ca.as_ref().is_some_and(signed_by)
                && (self.proxy_names.is_empty() || self.proxy_names.contains(&subject.name))
                && let Some(identity) = self.named_by_proxy(headers)
            {
                return Ok(identity);
            }
            let published = if self.client_ca.is_none() {
                self.published().await
            } else {
                None
            };
            if self.client_ca.as_ref().or(published.as_ref()).is_some_and(signed_by) {
                return Ok(authenticated(subject));
            }
            return Err(unauthorized());
        }
        if let Some(value) = headers.get(AUTHORIZATION) {
            let token = value
                .to_str()
                .ok()
                .and_then(|v| v.strip_prefix("Bearer "))
                .map(str::trim);
            let token = token
                .filter(|t| !t.is_empty() && t.len() < 16 << 10)
                .ok_or_else(unauthorized)?;
            return self.review_token(token).await.ok_or_else(unauthorized);
        }
        Ok(Identity {
            name: "system:anonymous".into(),
            groups: vec!["system:unauthenticated".into()],
            ..Identity::default()
        })
    }

    /// # Errors
    /// 403 when the review says no, 500 when it cannot be had.
    pub async fn authorize(&self, identity: &Identity, wanted: Wanted) -> Result<(), Refusal> {
        if identity.groups.iter().any(|g| g == "system:masters") {
            return Ok(());
        }
        let forbidden = |wanted: &Wanted| {
            let what = match wanted {
                Wanted::Path { verb, path } => format!("{verb} path {path:?}"),
                Wanted::Resource {
                    verb,
                    resource,
                    subresource,
                    name,
                    ..
                } => {
                    let slash = if subresource.is_empty() { "" } else { "/" };
                    format!(
                        "{verb} resource {:?} named {name:?}",
                        format!("{resource}{slash}{subresource}")
                    )
                }
            };
            let message = format!("forbidden: User {:?} cannot {what}", identity.name);
            Refusal {
                code: StatusCode::FORBIDDEN,
                message,
            }
        };
        let Some(client) = &self.access else {
            return Err(forbidden(&wanted));
        };
        let key = (identity.clone(), wanted);
        let known = self
            .known_access
            .lock()
            .get(&key)
            .copied()
            .filter(|(at, _)| at.elapsed() < CACHE_TIME);
        let allowed = match known {
            Some((_, allowed)) => allowed,
            None => {
                let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
                let answer = client
                    .request_value(Method::POST, path, Some(&access_review(&key.0, &key.1)))
                    .await;
                let answer = answer.map_err(|error| Refusal {
                    code: StatusCode::INTERNAL_SERVER_ERROR,
                    message: format!("Internal Server Error: {error}"),
                })?;
                let allowed = answer["status"]["allowed"] == true;
                remember(&mut self.known_access.lock(), key.clone(), allowed);
                allowed
            }
        };
        if allowed { Ok(()) } else { Err(forbidden(&key.1)) }
    }

    fn named_by_proxy(&self, headers: &HeaderMap) -> Option<Identity> {
        let text = |name: &String| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let name = self.user_headers.iter().find_map(text).filter(|n| !n.is_empty())?;
        let values = |name: &str| {
            headers
                .get_all(name)
                .iter()
                .filter_map(|v| v.to_str().ok())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let groups = self.group_headers.iter().flat_map(|name| values(name)).collect();
        let mut extra = Vec::new();
        for header in headers.keys() {
            let found = self
                .extra_prefixes
                .iter()
                .find_map(|prefix| header.as_str().strip_prefix(prefix.as_str()));
            if let Some(key) = found {
                extra.push((key.to_owned(), values(header.as_str())));
            }
        }
        extra.sort();
        Some(Identity {
            name,
            uid: String::new(),
            groups,
            extra,
        })
    }

    async fn review_token(&self, token: &str) -> Option<Identity> {
        let client = self.tokens.as_ref()?;
        let known = self
            .known_tokens
            .lock()
            .get(token)
            .cloned()
            .filter(|(at, _)| at.elapsed() < CACHE_TIME);
        if let Some((_, identity)) = known {
            return identity;
        }
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
        });
        let answer = client
            .request_value(
                Method::POST,
                "/apis/authentication.k8s.io/v1/tokenreviews",
                Some(&review),
            )
            .await;
        // A review that cannot be had is not remembered.
        let status = answer.ok()?["status"].take();
        let identity = (status["authenticated"] == true).then(|| reviewed(&status["user"]));
        remember(&mut self.known_tokens.lock(), token.to_owned(), identity.clone());
        identity
    }

    /// The client CA that the API server publishes; looked up once a minute at most.
    async fn published(&self) -> Option<Verifier> {
        let client = self.lookup.as_ref()?;
        let mut looked = self.looked.lock().await;
        if let Some(known) = looked.as_ref().filter(|l| l.at.elapsed() < LOOKUP_AGAIN) {
            return known.verifier.clone();
        }
        let found = client
            .get::<ConfigMap>(Some("kube-system"), "extension-apiserver-authentication")
            .await
            .ok();
        let pem = found.and_then(|c| c.data).and_then(|mut d| d.remove("client-ca-file"));
        let verifier = pem.and_then(|pem| tls::certificates_in(pem.as_bytes()).and_then(verifier).ok());
        *looked = Some(Looked {
            at: Instant::now(),
            verifier: verifier.clone(),
        });
        verifier
    }
}

fn remember<K: std::hash::Hash + Eq, V>(cache: &mut HashMap<K, (Instant, V)>, key: K, value: V) {
    if cache.len() >= CACHE_SIZE {
        cache.retain(|_, (at, _)| at.elapsed() < CACHE_TIME);
        if cache.len() >= CACHE_SIZE {
            cache.clear();
        }
    }
    cache.insert(key, (Instant::now(), value));
}

/// `/a/*` covers everything below `/a/`.
fn covers(allowed: &str, path: &str) -> bool {
    match allowed.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => allowed == path,
    }
}

/// Common name and organizations: the user and its groups.
fn subject(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .map(str::to_owned)
        .collect();
    Some(Identity {
        name,
        groups,
        ..Identity::default()
    })
}

fn authenticated(mut identity: Identity) -> Identity {
    identity.groups.push("system:authenticated".to_owned());
    identity
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn reviewed(user: &Value) -> Identity {
    let text = |field: &str| user[field].as_str().unwrap_or_default().to_owned();
    let extra = user["extra"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), strings(v)))
        .collect();
    Identity {
        name: text("username"),
        uid: text("uid"),
        groups: strings(&user["groups"]),
        extra,
    }
}

fn access_review(identity: &Identity, wanted: &Wanted) -> Value {
    let extra: Map<String, Value> = identity.extra.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let mut spec = json!({"user": identity.name, "uid": identity.uid, "groups": identity.groups, "extra": extra});
    match wanted {
        Wanted::Path { verb, path } => spec["nonResourceAttributes"] = json!({"path": path, "verb": verb}),
        Wanted::Resource {
            verb,
            group,
            resource,
            subresource,
            name,
        } => {
            spec["resourceAttributes"] = json!({
                "verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name,
                "version": "v1",
            });
        }
    }
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec})
}
