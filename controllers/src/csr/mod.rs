//! Certificate signing requests: who may have a certificate ([`approve`]), and making it ([`sign`]).

pub mod approve;
pub mod request;
pub mod sign;

use steersman_types::api::certificates::v1::CertificateSigningRequest;

/// Whether a condition of this type is there and true (an absent status counts as true, as in the old API).
fn has(csr: &CertificateSigningRequest, kind: &str) -> bool {
    csr.status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == kind && c.status != "False")
}

fn has_certificate(csr: &CertificateSigningRequest) -> bool {
    csr.status
        .as_ref()
        .and_then(|s| s.certificate.as_ref())
        .is_some_and(|c| !c.0.is_empty())
}
