//! Approves the client certificates of kubelets.
//!
//! Watches: certificatesigningrequests. Writes: their approval. Two cases, as upstream: a node renews its own
//! certificate (subresource `selfnodeclient`), or a bootstrapping kubelet asks for its first (`nodeclient`); whether the
//! requester may is a SubjectAccessReview. Everything else is left to people.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use steersman_runtime::client::Client;
use steersman_runtime::{Event, Informer};
use steersman_types::Time;
use steersman_types::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use tracing::debug;

use super::request::{KUBELET_CLIENT, Request, kubelet_client};
use super::{has, has_certificate};
use crate::context::Context;

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let requests = context.informers.of::<CertificateSigningRequest>();
        requests.synced().await;
        let queue = context.queue::<String>();
        let adding = queue.clone();
        requests.on_event(move |event| {
            if !matches!(event, Event::Deleted(_)) {
                adding.add(event.object().metadata.name.clone().unwrap_or_default());
            }
        });
        let client = context.client.clone();
        queue
            .run("certificate request", 1, move |name| {
                reconcile(client.clone(), requests.clone(), name)
            })
            .await;
        Ok(())
    })
}

/// A right that lets a request be approved, and what is said then.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    subresource: &'static str,
    message: &'static str,
}

/// Pure: the rights of which one suffices; none when the request is not for us.
fn decide(csr: &CertificateSigningRequest) -> Result<Vec<Grant>, String> {
    if csr.spec.signer_name != KUBELET_CLIENT || has_certificate(csr) || has(csr, "Approved") || has(csr, "Denied") {
        return Ok(Vec::new());
    }
    let name = csr.metadata.name.as_deref().unwrap_or_default();
    let request = Request::parse(&csr.spec.request.0).map_err(|e| format!("unable to parse csr {name:?}: {e}"))?;
    if kubelet_client(&request, csr.spec.usages.as_deref().unwrap_or_default()).is_err() {
        return Ok(Vec::new());
    }
    let mut grants = Vec::new();
    if csr.spec.username.as_deref() == Some(request.common_name.as_str()) {
        let message = "Auto approving self kubelet client certificate after SubjectAccessReview.";
        grants.push(Grant {
            subresource: "selfnodeclient",
            message,
        });
    }
    let message = "Auto approving kubelet client certificate after SubjectAccessReview.";
    grants.push(Grant {
        subresource: "nodeclient",
        message,
    });
    Ok(grants)
}

async fn reconcile(
    client: Client,
    requests: Informer<CertificateSigningRequest>,
    name: String,
) -> Result<Option<Duration>, String> {
    let Some(csr) = requests.get("", &name) else {
        return Ok(None);
    };
    let grants = match decide(&csr) {
        Ok(grants) => grants,
        Err(error) => {
            // It will not parse later either.
            debug!(error, "certificate request left alone");
            return Ok(None);
        }
    };
    for grant in &grants {
        let review = review(&csr, grant.subresource);
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = client
            .request_value(Method::POST, path, Some(&review))
            .await
            .map_err(|e| e.to_string())?;
        if answer["status"]["allowed"] == true {
            let approved = approved(&csr, grant.message, Timestamp::now());
            client
                .update_subresource(&approved, "approval")
                .await
                .map_err(|e| e.to_string())?;
            return Ok(None);
        }
    }
    if !grants.is_empty() {
        debug!(
            request = name,
            "recognized csr but subject access review was not approved"
        );
    }
    Ok(None)
}

fn review(csr: &CertificateSigningRequest, subresource: &str) -> Value {
    let spec = &csr.spec;
    json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
            "resourceAttributes": {
                "group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": "create",
                "subresource": subresource, "version": "*",
            },
        },
    })
}

fn approved(csr: &Arc<CertificateSigningRequest>, message: &str, now: Timestamp) -> CertificateSigningRequest {
    let mut csr = csr.as_ref().clone();
    let conditions = csr.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("AutoApproved".to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: None,
    });
    csr
}
