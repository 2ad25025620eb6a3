//! Certificate signing requests (PKCS#10), and what an issued certificate says.
//!
//! Callers: the node agent, which asks for its own certificates.

use std::net::IpAddr;
use std::str::FromStr;

use der::asn1::{BitString, Ia5String, OctetString, SetOfVec};
use der::{Encode, EncodePem};
use jiff::Timestamp;
use x509_cert::attr::Attribute;
use x509_cert::ext::ToExtension;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};
use x509_parser::prelude::{FromDer, GeneralName as Parsed, X509Certificate};

use super::{PkiError, SigningKey, bad};

/// Who the certificate is to be about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organization: String,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// A request for a certificate about `key`; PEM. Only keys made by [`SigningKey::generate`].
///
/// # Errors
/// When something in it cannot be encoded.
pub fn certificate_request(key: &SigningKey, subject: &Subject) -> Result<String, PkiError> {
    let encoding = |e: der::Error| bad("encoding a certificate request", e);
    let text = format!("CN={},O={}", subject.common_name, subject.organization);
    let name = Name::from_str(&text).map_err(encoding)?;
    let mut names = Vec::new();
    for dns in &subject.dns_names {
        names.push(GeneralName::DnsName(Ia5String::new(dns).map_err(encoding)?));
    }
    for address in &subject.addresses {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        names.push(GeneralName::IpAddress(OctetString::new(octets).map_err(encoding)?));
    }
    let mut attributes = SetOfVec::new();
    if !names.is_empty() {
        let extension = SubjectAltName(names).to_extension(&name, &[]).map_err(encoding)?;
        let attribute = Attribute::try_from(ExtensionReq(vec![extension])).map_err(encoding)?;
        attributes.insert(attribute).map_err(encoding)?;
    }
    let info = CertReqInfo {
        version: Version::V1,
        subject: name,
        public_key: key.public()?,
        attributes,
    };
    let signature = key.sign(&info.to_der().map_err(encoding)?)?;
    let algorithm = key.algorithm();
    let request = CertReq {
        info,
        algorithm,
        signature: BitString::from_bytes(&signature).map_err(encoding)?,
    };
    request.to_pem(der::pem::LineEnding::LF).map_err(encoding)
}

/// The public half of a key made by [`SigningKey::generate`], as DER.
///
/// # Errors
/// When it is of another kind.
pub fn public_key(key: &SigningKey) -> Result<Vec<u8>, PkiError> {
    key.public()?.to_der().map_err(|e| bad("public key", e))
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub subject: Subject,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// Reads the first certificate of a PEM text; `None` if there is none.
#[must_use]
pub fn facts(pem: &[u8]) -> Option<Facts> {
    let certificates = crate::serve::tls::certificates_in(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(certificates.first()?).ok()?;
    let time = |t: i64| Timestamp::from_second(t).ok();
    let mut subject = Subject::default();
    let text = |mut all: Vec<&str>| all.pop().unwrap_or_default().to_owned();
    let names = certificate.subject();
    subject.common_name = text(names.iter_common_name().filter_map(|a| a.as_str().ok()).collect());
    subject.organization = text(names.iter_organization().filter_map(|a| a.as_str().ok()).collect());
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        for name in &alternative.value.general_names {
            match name {
                Parsed::DNSName(dns) => subject.dns_names.push((*dns).to_owned()),
                Parsed::IPAddress(octets) => {
                    let v4 = <[u8; 4]>::try_from(*octets).ok().map(IpAddr::from);
                    let v6 = || <[u8; 16]>::try_from(*octets).ok().map(IpAddr::from);
                    subject.addresses.extend(v4.or_else(v6));
                }
                _ => {}
            }
        }
    }
    Some(Facts {
        subject,
        not_before: time(certificate.validity().not_before.timestamp())?,
        not_after: time(certificate.validity().not_after.timestamp())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::X509CertificationRequest;

    #[test]
    fn a_request_is_signed_with_its_own_key_and_names_whom_it_is_about() -> Result<(), Box<dyn std::error::Error>> {
        let (key, _) = SigningKey::generate()?;
        let subject = Subject {
            common_name: "system:node:n1".into(),
            organization: "system:nodes".into(),
            dns_names: vec!["n1".into()],
            addresses: vec![IpAddr::from([192, 0, 2, 1])],
        };
        let pem = certificate_request(&key, &subject)?;
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes())?;
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents)?;
        parsed.verify_signature()?;
        let name = parsed.certification_request_info.subject.to_string();
        assert!(
            name.contains("system:node:n1") && name.contains("system:nodes"),
            "{name}"
        );
        assert!(parsed.requested_extensions().is_some_and(|mut e| e.next().is_some()));
        let plain = Subject {
            dns_names: Vec::new(),
            addresses: Vec::new(),
            ..subject
        };
        let pem = certificate_request(&key, &plain)?;
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes())?;
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents)?;
        assert!(parsed.requested_extensions().is_none());
        Ok(())
    }
}
