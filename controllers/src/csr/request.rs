//! What a PKCS#10 request asks for, and which signer may grant it. Pure. Texts are upstream's.

use std::collections::BTreeSet;

use der::{Decode, DecodePem};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use x509_cert::request::{CertReq, ExtensionReq};
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

const COMMON_NAME: &str = "2.5.4.3";
const ORGANIZATION: &str = "2.5.4.10";

/// A request whose signature proves possession of its key.
#[derive(Clone, Debug)]
pub struct Request {
    pub subject: Name,
    pub public_key: SubjectPublicKeyInfoOwned,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub alternative_names: Vec<GeneralName>,
}

impl Request {
    /// # Errors
    /// When it is no request, or its signature is wrong; one line.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        if !pem
            .windows(30)
            .any(|w| w.starts_with(b"-----BEGIN CERTIFICATE REQUEST"))
        {
            return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
        }
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|e| e.to_string())?;
        let (_, signed) = X509CertificationRequest::from_der(&block.contents).map_err(|e| e.to_string())?;
        signed
            .verify_signature()
            .map_err(|e| format!("unable to verify certificate request signature: {e}"))?;
        let request = CertReq::from_pem(pem)
            .or_else(|_| CertReq::from_der(&block.contents))
            .map_err(|e| e.to_string())?;
        let mut alternative_names = Vec::new();
        for attribute in request.info.attributes.iter() {
            for value in attribute.values.iter() {
                let Ok(extensions) = value.decode_as::<ExtensionReq>() else {
                    continue;
                };
                for extension in extensions.0.iter().filter(|e| e.extn_id.to_string() == "2.5.29.17") {
                    let names = SubjectAltName::from_der(extension.extn_value.as_bytes()).map_err(|e| e.to_string())?;
                    alternative_names.extend(names.0);
                }
            }
        }
        let texts = |oid: &str| -> Vec<String> {
            request
                .info
                .subject
                .iter_rdn()
                .flat_map(|rdn| rdn.iter())
                .filter(|a| a.oid.to_string() == oid)
                .map(text)
                .collect()
        };
        Ok(Self {
            common_name: texts(COMMON_NAME).pop().unwrap_or_default(),
            organizations: texts(ORGANIZATION),
            subject: request.info.subject.clone(),
            public_key: request.info.public_key.clone(),
            alternative_names,
        })
    }
}

fn text(attribute: &AttributeTypeAndValue) -> String {
    String::from_utf8_lossy(attribute.value.value()).into_owned()
}

/// Whether `signer` is one of ours and may grant the request; `None`: not ours.
///
/// # Errors
/// Why not; goes into the request's Failed condition.
pub fn validate(signer: &str, request: &Request, usages: &[String]) -> Option<Result<(), String>> {
    match signer {
        KUBELET_CLIENT => Some(kubelet_client(request, usages)),
        KUBELET_SERVING => Some(kubelet_serving(request, usages)),
        CLIENT => Some(client(usages)),
        LEGACY => Some(Ok(())),
        _ => None,
    }
}

/// # Errors
/// Why it is not a kubelet's client certificate.
pub fn kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    nodes_only(request)?;
    for name in &request.alternative_names {
        let kind = match name {
            GeneralName::DnsName(_) => "DNS",
            GeneralName::Rfc822Name(_) => "Email",
            GeneralName::IpAddress(_) => "IP",
            GeneralName::UniformResourceIdentifier(_) => "URI",
            _ => continue,
        };
        return Err(format!("{kind} subjectAltNames are not allowed"));
    }
    node_name(request)?;
    exactly(usages, &["client auth", "digital signature", "key encipherment"])
}

fn kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    nodes_only(request)?;
    let is_host = |name: &GeneralName| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_));
    if !request.alternative_names.iter().any(is_host) {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    for name in &request.alternative_names {
        match name {
            GeneralName::Rfc822Name(_) => return Err("Email subjectAltNames are not allowed".to_owned()),
            GeneralName::UniformResourceIdentifier(_) => return Err("URI subjectAltNames are not allowed".to_owned()),
            _ => {}
        }
    }
    exactly(usages, &["digital signature", "key encipherment", "server auth"])?;
    node_name(request)
}

fn client(usages: &[String]) -> Result<(), String> {
    let mut found = false;
    for usage in usages {
        match usage.as_str() {
            "digital signature" | "key encipherment" => {}
            "client auth" => found = true,
            other => return Err(format!("invalid usage for client certificate: {other}")),
        }
    }
    if found {
        Ok(())
    } else {
        Err("missing required usage for client certificate: client auth".to_owned())
    }
}

fn nodes_only(request: &Request) -> Result<(), String> {
    let fine = request.organizations == ["system:nodes"];
    if fine {
        Ok(())
    } else {
        Err("subject organization is not system:nodes".to_owned())
    }
}

fn node_name(request: &Request) -> Result<(), String> {
    let fine = request.common_name.starts_with("system:node:");
    if fine {
        Ok(())
    } else {
        Err("subject common name does not begin with system:node:".to_owned())
    }
}

/// These usages; key encipherment may be missing, since only RSA needs it.
fn exactly(usages: &[String], required: &[&str]) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let all: BTreeSet<&str> = required.iter().copied().collect();
    let without: BTreeSet<&str> = all.iter().copied().filter(|u| *u != "key encipherment").collect();
    if given == all || given == without {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", required.join(" ")))
}
