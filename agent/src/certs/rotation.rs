//! Keeps one certificate fresh.

use std::time::Duration;

use steersman_runtime::Client;
use steersman_runtime::pki::SigningKey;
use steersman_runtime::pki::request::facts;
use steersman_runtime::serve::tls::Serving;
use steersman_types::jiff::{SignedDuration, Timestamp};

use super::Wish;
use super::due::due;
use super::request::ask;
use super::store::Store;

/// After a failure; upstream's back-off.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(32);
/// A clock may be set: the time is looked at anew at least so often.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);

/// Asks for a new certificate whenever it is time; `changed` puts each into use. Runs forever.
///
/// `before` is the one in use if the store has none yet.
pub async fn run(
    client: Client,
    wish: Wish,
    store: Store,
    before: Option<Serving>,
    mut changed: impl AsyncFnMut(&Serving) -> Result<(), String> + Send,
) {
    let mut retry = RETRY;
    let mut current = store.current().or(before);
    loop {
        let known = current.as_ref().and_then(|c| facts(&c.certificate));
        let chance: f64 = rand::random();
        let when = due(known.as_ref(), &wish.subject, chance, Timestamp::now());
        loop {
            let left = when.duration_since(Timestamp::now());
            if left <= SignedDuration::ZERO {
                break;
            }
            tokio::time::sleep(Duration::try_from(left.min(LONGEST)).unwrap_or_default()).await;
        }
        tracing::info!(signer = wish.signer, "Rotating certificates");
        let renewed = async {
            let (_, key) = SigningKey::generate().map_err(|e| e.to_string())?;
            let new = ask(&client, &wish, &key, None).await?;
            store
                .update(&new, Timestamp::now())
                .map_err(|e| format!("unable to store new cert/key pair: {e}"))?;
            changed(&new).await?;
            Ok::<_, String>(new)
        };
        match renewed.await {
            Ok(new) => {
                current = Some(new);
                retry = RETRY;
            }
            Err(e) => {
                tracing::error!(signer = wish.signer, error = e, "Certificate rotation failed");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}
