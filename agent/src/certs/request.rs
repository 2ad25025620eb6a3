//! Asks the API server for a certificate and waits until somebody has approved and signed it.

use std::time::Duration;

use steersman_runtime::Client;
use steersman_runtime::pki::SigningKey;
use steersman_runtime::pki::request::{certificate_request, facts};
use steersman_runtime::serve::tls::Serving;
use steersman_types::ByteString;
use steersman_types::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};

use super::Wish;

/// How often the request is looked at; its approval may take a person.
const LOOK: Duration = Duration::from_secs(1);
/// Upstream's `certificateWaitTimeout`: after that, a new request is made.
const WAIT: Duration = Duration::from_secs(15 * 60);

/// The request's object; without a name it gets one from the server.
fn object(wish: &Wish, pem: &str, name: Option<&str>) -> CertificateSigningRequest {
    let mut csr = CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.as_bytes().to_vec()),
            signer_name: wish.signer.into(),
            usages: Some(wish.usages.iter().map(|u| (*u).to_owned()).collect()),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    match name {
        Some(name) => csr.metadata.name = Some(name.to_owned()),
        None => csr.metadata.generate_name = Some("csr-".into()),
    }
    csr
}

/// What became of a request so far.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Waiting,
    Issued(Vec<u8>),
    Refused(String),
}

fn answer(csr: &CertificateSigningRequest) -> Answer {
    let status = csr.status.clone().unwrap_or_default();
    for condition in status.conditions.iter().flatten() {
        let (reason, message) = (
            condition.reason.clone().unwrap_or_default(),
            condition.message.clone().unwrap_or_default(),
        );
        let what = match condition.type_.as_str() {
            "Denied" => "denied",
            "Failed" => "failed",
            _ => continue,
        };
        return Answer::Refused(format!(
            "certificate signing request was {what}, reason: {reason}, message: {message}"
        ));
    }
    match status.certificate {
        Some(pem) if facts(&pem.0).is_some() => Answer::Issued(pem.0),
        _ => Answer::Waiting,
    }
}

/// Asks for a certificate about `key`, which is the PEM of a key of ours. With a name, a request that this key made before
/// is taken up again.
///
/// # Errors
/// When the server refuses, nobody signs in time, or somebody denies; one line.
pub async fn ask(client: &Client, wish: &Wish, key: &str, name: Option<&str>) -> Result<Serving, String> {
    let signing = SigningKey::from_pem(key.as_bytes()).map_err(|e| e.to_string())?;
    let pem = certificate_request(&signing, &wish.subject).map_err(|e| e.to_string())?;
    let name = match client.create(&object(wish, &pem, name)).await {
        Ok(made) => made.metadata.name.unwrap_or_default(),
        Err(e) if e.is_already_exists() => name.unwrap_or_default().to_owned(),
        Err(e) => return Err(format!("cannot create certificate signing request: {e}")),
    };
    tracing::info!(
        csr = name,
        signer = wish.signer,
        "Waiting for a certificate to be issued"
    );
    let issued = async {
        loop {
            match client.get::<CertificateSigningRequest>(None, &name).await {
                Ok(csr) => match answer(&csr) {
                    Answer::Issued(pem) => return Ok(pem),
                    Answer::Refused(why) => return Err(why),
                    Answer::Waiting => {}
                },
                Err(e) if e.is_not_found() => return Err(format!("certificate signing request {name:?} is gone")),
                Err(e) => tracing::debug!(error = %e, "Certificate signing request cannot be read"),
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let certificate = tokio::time::timeout(WAIT, issued)
        .await
        .map_err(|_| format!("certificate request {name:?} was not signed: timed out waiting for the condition"))??;
    Ok(Serving {
        certificate,
        key: key.as_bytes().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::Typed;

    #[test]
    fn a_request_carries_signer_and_usages_and_its_answer_is_read() {
        let wish = super::super::client("n1");
        let csr = object(&wish, "PEM", None);
        assert_eq!(csr.spec.signer_name, "kubernetes.io/kube-apiserver-client-kubelet");
        assert_eq!(csr.metadata.generate_name.as_deref(), Some("csr-"));
        assert_eq!(csr.spec.usages.clone().unwrap(), ["digital signature", "client auth"]);
        assert_eq!(object(&wish, "PEM", Some("x")).metadata.name.as_deref(), Some("x"));
        let with = |status: serde_json::Value| {
            let mut value = csr.to_value();
            value["status"] = status;
            answer(&CertificateSigningRequest::from_value(&value).unwrap())
        };
        assert_eq!(with(serde_json::json!({})), Answer::Waiting);
        let denied = serde_json::json!({"conditions": [{"type": "Denied", "status": "True", "reason": "No", "message": "never"}]});
        let text = "certificate signing request was denied, reason: No, message: never";
        assert_eq!(with(denied), Answer::Refused(text.into()));
        let approved =
            serde_json::json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "bm90aGluZw=="});
        assert_eq!(with(approved), Answer::Waiting, "what is no certificate is none");
    }
}
