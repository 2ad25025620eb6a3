//! Each controller with its own rights: bearer tokens of its service account in kube-system.
//!
//! The account is created when it is missing; the token is asked for with the program's own identity (TokenRequest) and
//! replaced when four fifths of its life are over. One request at a time per controller.

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use steersman_runtime::client::{ApiError, BoxFuture, Client, TokenSource};
use steersman_types::api::core::v1::ServiceAccount;
use tokio::sync::Mutex;
use tracing::warn;

const NAMESPACE: &str = "kube-system";
/// Asked for; the server may give less.
const LIFE_SECONDS: i64 = 3600;

struct Token {
    text: String,
    renew: Timestamp,
    expires: Timestamp,
}

/// See the module.
pub struct ServiceAccountTokens {
    client: Client,
    account: &'static str,
    token: Mutex<Option<Token>>,
}

impl ServiceAccountTokens {
    /// `client` must be allowed to create tokens (and the account).
    #[must_use]
    pub fn new(client: Client, account: &'static str) -> Self {
        Self {
            client,
            account,
            token: Mutex::new(None),
        }
    }

    async fn request(&self) -> Result<Token, ApiError> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{}/token", self.account);
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": LIFE_SECONDS},
        });
        let answer = match self.client.request_value(Method::POST, &path, Some(&body)).await {
            Err(error) if error.is_not_found() => {
                let mut account = ServiceAccount::default();
                account.metadata.namespace = Some(NAMESPACE.to_owned());
                account.metadata.name = Some(self.account.to_owned());
                match self.client.create(&account).await {
                    Err(error) if !error.is_already_exists() => return Err(error),
                    _ => self.client.request_value(Method::POST, &path, Some(&body)).await?,
                }
            }
            answer => answer?,
        };
        let status = &answer["status"];
        let text = status["token"].as_str().unwrap_or_default().to_owned();
        let expires: Option<Timestamp> = status["expirationTimestamp"].as_str().and_then(|t| t.parse().ok());
        let Some(expires) = expires.filter(|_| !text.is_empty()) else {
            return Err(ApiError::Decode("the answer to a TokenRequest holds no token".into()));
        };
        let now = Timestamp::now();
        let life = expires.duration_since(now).max(SignedDuration::ZERO);
        let renew = now.checked_add(life * 4 / 5).unwrap_or(now);
        Ok(Token { text, renew, expires })
    }
}

impl TokenSource for ServiceAccountTokens {
    fn token(&self) -> BoxFuture<'_, Result<String, ApiError>> {
        Box::pin(async move {
            let mut slot = self.token.lock().await;
            let now = Timestamp::now();
            if let Some(token) = slot.as_ref().filter(|t| now < t.renew) {
                return Ok(token.text.clone());
            }
            match self.request().await {
                Ok(token) => Ok(slot.insert(token).text.clone()),
                Err(error) => match slot.as_ref().filter(|t| now < t.expires) {
                    // Still good for a while.
                    Some(token) => {
                        warn!(account = self.account, %error, "could not renew a service account token");
                        Ok(token.text.clone())
                    }
                    None => Err(error),
                },
            }
        })
    }
}
