//! Certificates read back with another library.

use super::super::request::*;
use super::*;
use steersman_runtime::pki;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use x509_parser::prelude::{FromDer, X509Certificate};

fn ca() -> Authority {
    let (key, pem) = pki::SigningKey::generate().unwrap();
    let subject: Name = "CN=kubernetes-ca".parse().unwrap();
    let validity = Validity::from_now(Duration::from_secs(30 * 24 * 3600)).unwrap();
    let certificate = pki::self_signed(&key, subject, validity, Vec::new(), [7; 16]).unwrap();
    Authority::from_pem(certificate.as_bytes(), pem.as_bytes()).unwrap()
}

fn request(subject: &str, names: Vec<GeneralName>) -> Request {
    let (key, _) = pki::SigningKey::generate().unwrap();
    let subject: Name = subject.parse().unwrap();
    let validity = Validity::from_now(Duration::from_secs(60)).unwrap();
    let own = pki::self_signed(&key, subject.clone(), validity, Vec::new(), [1; 16]).unwrap();
    let certificate = <x509_cert::Certificate as der::DecodePem>::from_pem(own.as_bytes()).unwrap();
    Request {
        subject,
        public_key: certificate.tbs_certificate().subject_public_key_info().clone(),
        common_name: "system:node:n1".into(),
        organizations: vec!["system:nodes".into()],
        alternative_names: names,
    }
}

fn usages(list: &[&str]) -> Vec<String> {
    list.iter().map(|u| (*u).to_owned()).collect()
}

#[test]
fn every_organization_survives_and_the_certificate_ends_with_its_ca() {
    let ca = ca();
    let request = request("CN=system:node:n1,O=one,O=two,O=three", Vec::new());
    let now = Timestamp::now();
    let contents = contents(
        request,
        &usages(&["client auth", "digital signature"]),
        SignedDuration::from_hours(8760),
        &ca,
        now,
    );
    let pem = ca.issue(contents.unwrap(), [9; 16]).unwrap();
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&block.contents).unwrap();
    let mut organizations: Vec<&str> = certificate
        .subject()
        .iter_organization()
        .map(|o| o.as_str().unwrap())
        .collect();
    organizations.sort_unstable();
    assert_eq!(organizations, ["one", "three", "two"]);
    let days = (certificate.validity().not_after.timestamp() - now.as_second()) / 86400;
    assert!(days <= 30);
    assert!(certificate.validity().not_before.timestamp() <= now.as_second() - 300);
    assert!(!certificate.is_ca());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
}

#[test]
fn lifetimes_stay_between_ten_minutes_and_the_longest_allowed() {
    let longest = Duration::from_secs(3600);
    assert_eq!(life(None, longest), SignedDuration::from_hours(1));
    assert_eq!(life(Some(7200), longest), SignedDuration::from_hours(1));
    assert_eq!(life(Some(1), longest), SignedDuration::from_mins(10));
    assert_eq!(life(Some(1800), longest), SignedDuration::from_mins(30));
}

#[test]
fn requests_beyond_their_signer_are_refused_with_upstream_s_words() {
    let node = request("CN=system:node:n1,O=system:nodes", Vec::new());
    let right = usages(&["client auth", "digital signature"]);
    assert_eq!(validate(KUBELET_CLIENT, &node, &right), Some(Ok(())));
    assert_eq!(
        validate(KUBELET_SERVING, &node, &right),
        Some(Err("DNS or IP subjectAltName is required".into()))
    );
    assert_eq!(validate("example.com/other", &node, &right), None);
    let other = Request {
        organizations: vec!["system:masters".into()],
        ..node.clone()
    };
    assert_eq!(
        validate(KUBELET_CLIENT, &other, &right),
        Some(Err("subject organization is not system:nodes".into()))
    );
    assert_eq!(
        validate(KUBELET_CLIENT, &node, &usages(&["server auth"])),
        Some(Err(
            "usages did not match [client auth digital signature key encipherment]".into()
        ))
    );
    assert_eq!(
        validate(CLIENT, &node, &usages(&["server auth"])),
        Some(Err("invalid usage for client certificate: server auth".into()))
    );
}

#[test]
fn what_is_no_request_is_refused() {
    assert!(Request::parse(b"").is_err());
    assert!(Request::parse(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n").is_err());
}
