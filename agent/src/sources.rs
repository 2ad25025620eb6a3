//! ConfigMaps, Secrets and tokens of this node's pods, from the API server.
//!
//! Callers: the environment and the volumes. The Node authorizer lets an agent read only what its pods name, one object
//! at a time. Objects are remembered for a short while so that a pod's start and refresh cost one read per object; a
//! new pod of the namespace reads afresh.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;
use steersman_runtime::Client;
use steersman_runtime::client::ApiError;
use steersman_types::Typed;
use steersman_types::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use steersman_types::jiff::{SignedDuration, Timestamp};

use crate::pod;

/// How long an object is remembered. Below the refresh period of volumes, so that each refresh sees changes.
const FRESH: Duration = Duration::from_secs(20);
/// More objects than that are not remembered at all: a bound, far above what the pods of one node name.
const MAX_REMEMBERED: usize = 4096;

/// The objects that pods refer to. `None` means: does not exist.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, String>;
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, String>;
    /// A service account token bound to the pod. Empty `audience` is the API server's own.
    async fn token(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<String, String>;
    /// Forgets what is remembered of a namespace.
    fn forget(&self, namespace: &str);
}

type Remembered<T> = Mutex<HashMap<(String, String), (Instant, Option<Arc<T>>)>>;

struct Token {
    text: String,
    issued: Timestamp,
    expires: Timestamp,
}

/// [`Objects`] over a client.
pub struct ApiObjects {
    client: Client,
    maps: Remembered<ConfigMap>,
    secrets: Remembered<Secret>,
    tokens: Mutex<HashMap<(String, String, i64), Arc<Token>>>,
}

impl ApiObjects {
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            maps: Mutex::default(),
            secrets: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    async fn read<T: Typed>(
        &self,
        kept: &Remembered<T>,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<T>>, String> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some((at, object)) = kept.lock().get(&key)
            && at.elapsed() < FRESH
        {
            return Ok(object.clone());
        }
        let object = match self.client.get::<T>(Some(namespace), name).await {
            Ok(object) => Some(Arc::new(object)),
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(e.to_string()),
        };
        let mut kept = kept.lock();
        if kept.len() >= MAX_REMEMBERED {
            kept.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        // What is absent may be created any moment: ask again next time.
        if object.is_some() && kept.len() < MAX_REMEMBERED {
            kept.insert(key, (Instant::now(), object.clone()));
        }
        Ok(object)
    }

    async fn request_token(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<Token, ApiError> {
        let account = pod::spec(pod).service_account_name.as_deref().unwrap_or("default");
        let audiences: Vec<&str> = if audience.is_empty() {
            Vec::new()
        } else {
            vec![audience]
        };
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences, "expirationSeconds": seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod::name(pod), "uid": pod::uid(pod)},
            },
        });
        let namespace = pod::namespace(pod);
        let answer = self
            .client
            .create_subresource::<ServiceAccount>(Some(namespace), account, "token", &body)
            .await?;
        let now = Timestamp::now();
        let text = answer["status"]["token"].as_str().unwrap_or_default().to_owned();
        let expires = answer["status"]["expirationTimestamp"]
            .as_str()
            .and_then(|t| t.parse().ok());
        let default = now
            .saturating_add(SignedDuration::from_secs(seconds))
            .unwrap_or(Timestamp::MAX);
        Ok(Token {
            text,
            issued: now,
            expires: expires.unwrap_or(default),
        })
    }
}

/// A token is renewed when 80 % of its life, or a day, is over. Upstream's rule.
fn needs_renewal(token: &Token, now: Timestamp) -> bool {
    let life = token.expires.duration_since(token.issued);
    let age = now.duration_since(token.issued);
    age.as_secs() * 10 > life.as_secs() * 8 || age > SignedDuration::from_hours(24)
}

#[async_trait]
impl Objects for ApiObjects {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, String> {
        self.read(&self.maps, namespace, name).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, String> {
        self.read(&self.secrets, namespace, name).await
    }

    async fn token(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<String, String> {
        let key = (pod::uid(pod).to_owned(), audience.to_owned(), seconds);
        let kept = self.tokens.lock().get(&key).cloned();
        let now = Timestamp::now();
        if let Some(token) = kept.as_ref().filter(|t| !needs_renewal(t, now)) {
            return Ok(token.text.clone());
        }
        match self.request_token(pod, audience, seconds).await {
            Ok(token) => {
                let text = token.text.clone();
                let mut tokens = self.tokens.lock();
                tokens.retain(|_, t| t.expires > now);
                tokens.insert(key, Arc::new(token));
                Ok(text)
            }
            // The old one is good for a while longer.
            Err(_) if kept.as_ref().is_some_and(|t| t.expires > now) => {
                Ok(kept.map(|t| t.text.clone()).unwrap_or_default())
            }
            Err(e) => Err(format!("failed to fetch token: {e}")),
        }
    }

    fn forget(&self, namespace: &str) {
        self.maps.lock().retain(|(ns, _), _| ns != namespace);
        self.secrets.lock().retain(|(ns, _), _| ns != namespace);
    }
}

/// Objects in memory, for tests.
#[cfg(test)]
pub mod fake {
    use super::*;
    use steersman_types::api::core::v1::ConfigMap;

    /// The objects, changeable through a shared reference.
    #[derive(Default)]
    pub struct FakeObjects {
        pub maps: Mutex<HashMap<(String, String), ConfigMap>>,
        pub secrets: Mutex<HashMap<(String, String), Secret>>,
    }

    impl FakeObjects {
        #[must_use]
        pub fn with_config_map(self, namespace: &str, name: &str, data: &[(&str, &str)]) -> Self {
            let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let map = ConfigMap {
                data: Some(data),
                ..Default::default()
            };
            self.maps.lock().insert((namespace.into(), name.into()), map);
            self
        }

        #[must_use]
        pub fn with_secret(self, namespace: &str, name: &str, data: &[(&str, &str)]) -> Self {
            let data: serde_json::Map<_, _> = data
                .iter()
                .map(|(k, v)| {
                    use base64::Engine as _;
                    (
                        (*k).to_owned(),
                        base64::engine::general_purpose::STANDARD.encode(v).into(),
                    )
                })
                .collect();
            let secret = Secret::from_value(&json!({ "data": data })).unwrap();
            self.secrets.lock().insert((namespace.into(), name.into()), secret);
            self
        }
    }

    #[async_trait]
    impl Objects for FakeObjects {
        async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, String> {
            Ok(self
                .maps
                .lock()
                .get(&(namespace.into(), name.into()))
                .cloned()
                .map(Arc::new))
        }
        async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, String> {
            Ok(self
                .secrets
                .lock()
                .get(&(namespace.into(), name.into()))
                .cloned()
                .map(Arc::new))
        }
        async fn token(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<String, String> {
            Ok(format!("token:{}:{audience}:{seconds}", pod::name(pod)))
        }
        fn forget(&self, _: &str) {}
    }
}
