//! The node's heartbeat: a Lease in `kube-node-lease`, renewed four times per duration.

use std::time::Duration;

use steersman_runtime::Client;
use steersman_runtime::client::ApiError;
use steersman_types::api::coordination::v1::{Lease, LeaseSpec};
use steersman_types::api::core::v1::Node;
use steersman_types::jiff::Timestamp;
use steersman_types::meta::{MicroTime, OwnerReference};

const NAMESPACE: &str = "kube-node-lease";
/// A renewal that fails is tried again so soon, then after twice as long, up to [`RETRY_MAX`] (upstream: 7 s). While the
/// API server cannot be reached this is also what finds out that it can be again.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Renews the lease forever.
pub async fn run(client: Client, node: String, duration_seconds: i32) {
    let period = Duration::from_secs(u64::try_from(duration_seconds).unwrap_or(40)) / 4;
    // A request that hangs must not cost the lease.
    let client = client.with_timeout(period);
    let mut held: Option<Lease> = None;
    let mut pause = RETRY;
    loop {
        match renew(&client, &node, duration_seconds, held.take()).await {
            Ok(lease) => {
                held = Some(lease);
                pause = RETRY;
                tokio::time::sleep(period).await;
            }
            Err(e) => {
                tracing::warn!(error = %e, "Failed to update lease");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

async fn renew(client: &Client, node: &str, seconds: i32, held: Option<Lease>) -> Result<Lease, ApiError> {
    let before = match held {
        Some(lease) => Some(lease),
        None => match client.get::<Lease>(Some(NAMESPACE), node).await {
            Ok(lease) => Some(lease),
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(e),
        },
    };
    let owner = match &before {
        Some(l) if l.metadata.owner_references.as_ref().is_some_and(|o| !o.is_empty()) => None,
        _ => client.get::<Node>(None, node).await.ok().and_then(|n| n.metadata.uid),
    };
    let exists = before.is_some();
    let lease = next(before.unwrap_or_default(), node, seconds, owner, Timestamp::now());
    if exists {
        client.update(&lease).await
    } else {
        client.create(&lease).await
    }
}

/// The lease as it should be written now.
fn next(mut lease: Lease, node: &str, seconds: i32, owner: Option<String>, now: Timestamp) -> Lease {
    lease.metadata.name = Some(node.to_owned());
    lease.metadata.namespace = Some(NAMESPACE.to_owned());
    if let Some(uid) = owner {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.to_owned(),
            uid,
            ..OwnerReference::default()
        }]);
    }
    let before = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(node.to_owned()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(now)),
        ..before
    });
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_names_its_holder_and_belongs_to_the_node() {
        let now = Timestamp::from_second(7).unwrap();
        let lease = next(Lease::default(), "n1", 40, Some("u".into()), now);
        let spec = lease.spec.clone().unwrap();
        assert_eq!(
            (spec.holder_identity.as_deref(), spec.lease_duration_seconds),
            (Some("n1"), Some(40))
        );
        assert_eq!(lease.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        let again = next(lease, "n1", 40, None, Timestamp::from_second(17).unwrap());
        assert_eq!(again.metadata.owner_references.as_ref().map(Vec::len), Some(1));
    }
}
