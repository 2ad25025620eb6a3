//! What the plugins for CertificateSigningRequests share: reading a request's subject, and asking whether somebody may speak
//! for a signer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use steersman_auth::lister::text;
use steersman_auth::user::User;
use steersman_auth::{Attributes, Authorizer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use crate::Request;

pub(crate) const GROUP: &str = "certificates.k8s.io";
pub(crate) const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const CLIENT_KUBELET_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const KUBELET_SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// Whom a signing request is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Empty when there is none.
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// The subject in `spec.request` (base64 of PEM).
pub(crate) fn csr_subject(object: &Value) -> Result<Subject, String> {
    let not_pem = "PEM block type must be CERTIFICATE REQUEST";
    let pem = STANDARD.decode(text(object, "/spec/request")).map_err(|_| not_pem)?;
    let (_, block) = parse_x509_pem(&pem).map_err(|_| not_pem)?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(not_pem.into());
    }
    let malformed = |e: &dyn std::fmt::Display| format!("x509: malformed certificate request: {e}");
    let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|e| malformed(&e))?;
    let subject = &request.certification_request_info.subject;
    let mut organizations = Vec::new();
    for attribute in subject.iter_organization() {
        organizations.push(attribute.as_str().map_err(|e| malformed(&e))?.to_owned());
    }
    let name = subject.iter_common_name().last();
    let common_name = name
        .map(|n| n.as_str().map_err(|e| malformed(&e)))
        .transpose()?
        .unwrap_or_default()
        .to_owned();
    Ok(Subject {
        common_name,
        organizations,
    })
}

/// Whether a request is about this part of a CertificateSigningRequest.
pub(crate) fn about(request: &Request, subresource: &str) -> bool {
    request.is(GROUP, "certificatesigningrequests") && request.subresource == subresource
}

/// Whether the user may `verb` (approve, sign, attest) for a signer: by its name, or for all of its domain (`domain/*`).
pub(crate) fn may(authorizer: &dyn Authorizer, user: &User, verb: &str, signer: &str) -> bool {
    let allowed = |name: String| {
        let what = Attributes {
            user: user.clone(),
            verb: verb.into(),
            resource_request: true,
            group: GROUP.into(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            ..Attributes::default()
        };
        authorizer.authorize(&what).allowed()
    };
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    allowed(signer.to_owned()) || allowed(format!("{domain}/*"))
}
