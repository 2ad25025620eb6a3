//! Service account tokens that live in Secrets: for clients outside of the cluster that cannot ask for fresh ones.
//!
//! Somebody creates a Secret of the type `kubernetes.io/service-account-token` whose annotation names an account; this
//! controller fills it with a token that does not expire, the CA and the namespace. Watches: such secrets, service
//! accounts. Writes: secrets; service accounts (references to secrets that are gone). Runs with the program's own rights,
//! as it must before any other controller has an account. Without `--service-account-private-key-file` it does nothing.
//!
//! What stays true: a token names the UID of its account; a secret whose account is gone, or is another one of the same
//! name, is deleted; a token that is there is never replaced. [`decide`] is pure. No Secrets are made for accounts: who
//! runs in the cluster has tokens of its own.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use steersman_auth::token::{SigningKey, jws};
use steersman_runtime::client::ApiError;
use steersman_runtime::{Event, Informer, Key, ListOptions};
use steersman_types::ByteString;
use steersman_types::api::core::v1::{Secret, ServiceAccount};
use tracing::info;

use crate::act::{Action, Executor};
use crate::context::Context;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const WORKERS: usize = 5;

/// A secret, and the account that it is (or was) for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Item {
    secret: Key,
    account: String,
}

struct Keeper {
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    executor: Executor,
    key: Arc<SigningKey>,
    ca: Option<String>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let Some(key) = context.settings.token_key.clone() else {
            return Ok(());
        };
        let of_type = ListOptions::all().fields(&format!("type={TYPE}"));
        let keeper = Arc::new(Keeper {
            secrets: context.informers.of_with::<Secret>(of_type),
            accounts: context.informers.of::<ServiceAccount>(),
            executor: context.executor("serviceaccount-token-controller"),
            key,
            ca: context.settings.root_ca.clone(),
        });
        keeper.secrets.synced().await;
        keeper.accounts.synced().await;
        let queue = context.queue::<Item>();
        let adding = queue.clone();
        keeper.secrets.on_event(move |event| adding.add(item(event.object())));
        let (adding, secrets) = (queue.clone(), keeper.secrets.clone());
        keeper.accounts.on_event(move |event| {
            if matches!(event, Event::Deleted(_)) {
                let metadata = &event.object().metadata;
                let namespace = metadata.namespace.as_deref().unwrap_or_default();
                let orphans = secrets.list_in(namespace).into_iter().map(|secret| item(&secret));
                let orphans = orphans.filter(|item| Some(&item.account) == metadata.name.as_ref());
                orphans.for_each(|item| adding.add(item));
            }
        });
        queue
            .run("service account token", WORKERS, move |item| {
                let keeper = keeper.clone();
                async move { keeper.reconcile(item).await.map_err(|e| e.to_string()) }
            })
            .await;
        Ok(())
    })
}

fn item(secret: &Secret) -> Item {
    Item {
        secret: Key::of(secret),
        account: annotation(secret, ACCOUNT).unwrap_or_default().to_owned(),
    }
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    let annotations = secret.metadata.annotations.as_ref()?;
    annotations
        .get(name)
        .map(String::as_str)
        .filter(|text| !text.is_empty())
}

/// Whether this is the account that the secret means: its name is the annotation's, and so is the UID if one is noted.
fn is_meant(secret: &Secret, account: &ServiceAccount) -> bool {
    annotation(secret, ACCOUNT_UID).is_none_or(|uid| account.metadata.uid.as_deref() == Some(uid))
}

/// What a token says, before it is signed. It does not expire: it ends with its secret.
fn claims(secret: &Secret, account: &ServiceAccount) -> Value {
    let namespace = account.metadata.namespace.as_deref().unwrap_or_default();
    let name = account.metadata.name.as_deref().unwrap_or_default();
    json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.metadata.name,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.metadata.uid,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    })
}

/// What a secret needs.
#[derive(Clone, Debug, PartialEq)]
enum Need {
    Nothing,
    /// Its account is not there.
    Deletion,
    /// Some of the token, the CA and the namespace.
    Filling,
}

fn decide(secret: &Secret, account: Option<&ServiceAccount>, ca: Option<&str>) -> Need {
    if account.is_none_or(|account| !is_meant(secret, account)) {
        return Need::Deletion;
    }
    let held = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|v| v.0.as_slice());
    let lacks = |key: &str| held(key).is_none_or(<[u8]>::is_empty);
    let other_ca = ca.is_some_and(|ca| !ca.is_empty() && held("ca.crt") != Some(ca.as_bytes()));
    match lacks("token") || lacks("namespace") || other_ca {
        true => Need::Filling,
        false => Need::Nothing,
    }
}

/// The secret with everything in it; `None` when nothing can be signed.
fn filled(secret: &Secret, account: &ServiceAccount, ca: Option<&str>, key: &SigningKey) -> Option<Secret> {
    let mut secret = secret.clone();
    let token = claims(&secret, account);
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let data = secret.data.get_or_insert_default();
    if let Some(ca) = ca.filter(|ca| !ca.is_empty()) {
        data.insert("ca.crt".to_owned(), ByteString(ca.as_bytes().to_vec()));
    }
    if data.get("namespace").is_none_or(|v| v.0.is_empty()) {
        data.insert("namespace".to_owned(), ByteString(namespace.into_bytes()));
    }
    if data.get("token").is_none_or(|v| v.0.is_empty()) {
        data.insert("token".to_owned(), ByteString(jws::sign(key, &token)?.into_bytes()));
    }
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT.to_owned(), account.metadata.name.clone().unwrap_or_default());
    annotations.insert(ACCOUNT_UID.to_owned(), account.metadata.uid.clone().unwrap_or_default());
    Some(secret)
}

impl Keeper {
    async fn reconcile(&self, item: Item) -> Result<Option<Duration>, ApiError> {
        let Some(secret) = self.secrets.get_key(&item.secret) else {
            self.forget(&item).await?;
            return Ok(None);
        };
        let account = self.account(&secret, &item).await?;
        match decide(&secret, account.as_deref(), self.ca.as_deref()) {
            Need::Nothing => {}
            Need::Deletion => {
                info!(secret = %item.secret, account = item.account, "Service account does not exist, deleting token");
                settled(self.executor.one(Action::delete(secret.as_ref())).await.map(drop))?;
            }
            Need::Filling => {
                if let Some(account) = account {
                    self.fill(&secret, &account).await?;
                }
            }
        }
        Ok(None)
    }

    /// The account from the cache, or from the server when the cache does not have the one that is meant.
    async fn account(&self, secret: &Secret, item: &Item) -> Result<Option<Arc<ServiceAccount>>, ApiError> {
        let namespace = item.secret.namespace.as_str();
        if let Some(known) = self.accounts.get(namespace, &item.account)
            && is_meant(secret, &known)
        {
            return Ok(Some(known));
        }
        match self.executor.client().get(Some(namespace), &item.account).await {
            Ok(account) => Ok(Some(Arc::new(account))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn fill(&self, known: &Secret, account: &ServiceAccount) -> Result<(), ApiError> {
        let (namespace, name) = (known.metadata.namespace.as_deref(), known.metadata.name.as_deref());
        let fresh: Secret = match self.executor.client().get(namespace, name.unwrap_or_default()).await {
            Ok(fresh) => fresh,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        if fresh.metadata.resource_version != known.metadata.resource_version {
            // An event is on its way.
            return Ok(());
        }
        let filled = filled(&fresh, account, self.ca.as_deref(), &self.key);
        let filled = filled.ok_or_else(|| ApiError::Decode("the system has no randomness".into()))?;
        settled(self.executor.one(Action::update(&filled)).await.map(drop))
    }

    /// An account does not list a secret that is gone.
    async fn forget(&self, item: &Item) -> Result<(), ApiError> {
        let Some(known) = self.accounts.get(&item.secret.namespace, &item.account) else {
            return Ok(());
        };
        let mut account = known.as_ref().clone();
        let listed = account.secrets.get_or_insert_default();
        let before = listed.len();
        listed.retain(|reference| reference.name.as_deref() != Some(item.secret.name.as_str()));
        if listed.len() == before {
            return Ok(());
        }
        match self.executor.one(Action::update(&account)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// What somebody else has changed or removed meanwhile is theirs; events tell of it.
fn settled(outcome: Result<(), ApiError>) -> Result<(), ApiError> {
    match outcome {
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use steersman_types::Typed;

    fn key() -> SigningKey {
        SigningKey::generate().unwrap()
    }

    fn secret(annotations: Value, data: Value) -> Secret {
        let metadata = json!({"name": "s", "namespace": "ns", "annotations": annotations});
        Secret::from_value(&json!({"metadata": metadata, "type": TYPE, "data": data})).unwrap()
    }

    fn account(uid: &str) -> ServiceAccount {
        ServiceAccount::from_value(&json!({"metadata": {"name": "a", "namespace": "ns", "uid": uid}})).unwrap()
    }

    #[test]
    fn a_new_secret_is_filled_once() {
        let empty = secret(json!({ACCOUNT: "a"}), json!({}));
        let account = account("u");
        assert_eq!(decide(&empty, Some(&account), Some("CA")), Need::Filling);
        let full = filled(&empty, &account, Some("CA"), &key()).unwrap();
        assert_eq!(decide(&full, Some(&account), Some("CA")), Need::Nothing);
        assert_eq!(decide(&full, Some(&account), Some("another CA")), Need::Filling);
        let data = full.data.clone().unwrap();
        assert_eq!(
            (data["ca.crt"].0.as_slice(), data["namespace"].0.as_slice()),
            (&b"CA"[..], &b"ns"[..])
        );
        let again = filled(&full, &account, Some("another CA"), &key()).unwrap();
        assert_eq!(
            again.data.unwrap()["token"],
            data["token"],
            "a token that is there stays"
        );
    }

    #[test]
    fn a_token_says_whose_it_is_and_where_it_is_kept() {
        let full = filled(&secret(json!({ACCOUNT: "a"}), json!({})), &account("u"), None, &key()).unwrap();
        let token = String::from_utf8(full.data.unwrap()["token"].0.clone()).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        let expected = json!({
            "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:ns:a",
            "kubernetes.io/serviceaccount/namespace": "ns",
            "kubernetes.io/serviceaccount/secret.name": "s",
            "kubernetes.io/serviceaccount/service-account.name": "a",
            "kubernetes.io/serviceaccount/service-account.uid": "u",
        });
        assert_eq!(claims, expected);
        assert_eq!(full.metadata.annotations.unwrap()[ACCOUNT_UID], "u");
    }

    #[test]
    fn a_secret_goes_with_its_account() {
        let of_old = secret(json!({ACCOUNT: "a", ACCOUNT_UID: "old"}), json!({}));
        assert_eq!(decide(&of_old, None, None), Need::Deletion);
        assert_eq!(decide(&of_old, Some(&account("new")), None), Need::Deletion);
        assert_eq!(decide(&of_old, Some(&account("old")), None), Need::Filling);
    }

    #[test]
    fn a_file_without_a_private_key_is_refused() {
        let why = SigningKey::from_pem(b"nothing").unwrap_err().to_string();
        assert_eq!(why, "data does not contain a valid RSA or ECDSA private key");
    }
}
