//! Signs approved certificate requests with the cluster's CA.
//!
//! Watches: certificatesigningrequests. Writes: their status. Signers: the four of `kubernetes.io/`. Without
//! `--cluster-signing-cert-file` the controller does nothing. The CA files are read for each signature, so that a new CA is taken up.
//!
//! What stays true: only approved requests are signed; a certificate never outlives the CA's and is never one of a CA;
//! the subject is taken over byte by byte.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280;
use der::asn1::{GeneralizedTime, UtcTime};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use steersman_runtime::client::Client;
use steersman_runtime::pki::{Authority, Contents};
use steersman_runtime::{Event, Informer};
use steersman_types::Time;
use steersman_types::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::time::Validity;

use super::request::{Request, validate};
use super::{has, has_certificate};
use crate::context::Context;

/// Clocks of clients may be behind ours by this much.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Certificates that live shorter are not shortened by the backdating.
const SHORT: SignedDuration = SignedDuration::from_hours(8);
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let Some(files) = context.settings.signing.clone() else {
            return Ok(());
        };
        let requests = context.informers.of::<CertificateSigningRequest>();
        requests.synced().await;
        let queue = context.queue::<String>();
        let adding = queue.clone();
        requests.on_event(move |event| {
            if !matches!(event, Event::Deleted(_)) {
                adding.add(event.object().metadata.name.clone().unwrap_or_default());
            }
        });
        let signer = Arc::new(Signer {
            client: context.client.clone(),
            requests,
            files,
            longest: context.settings.signing_duration,
        });
        queue
            .run("certificate request", 1, move |name| reconcile(signer.clone(), name))
            .await;
        Ok(())
    })
}

struct Signer {
    client: Client,
    requests: Informer<CertificateSigningRequest>,
    files: (PathBuf, PathBuf),
    longest: Duration,
}

/// Reads the CA.
///
/// # Errors
/// When a file cannot be read or used; one line.
pub fn authority((certificate, key): &(PathBuf, PathBuf)) -> anyhow::Result<Authority> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|e| anyhow::anyhow!("open {}: {e}", path.display()));
    Ok(Authority::from_pem(&read(certificate)?, &read(key)?)?)
}

async fn reconcile(signer: Arc<Signer>, name: String) -> Result<Option<Duration>, String> {
    let Some(csr) = signer.requests.get("", &name) else {
        return Ok(None);
    };
    if !has(&csr, "Approved") || has(&csr, "Denied") || has(&csr, "Failed") || has_certificate(&csr) {
        return Ok(None);
    }
    let usages = csr.spec.usages.clone().unwrap_or_default();
    let request = Request::parse(&csr.spec.request.0).map_err(|e| format!("unable to parse csr {name:?}: {e}"))?;
    let mut signed = csr.as_ref().clone();
    let status = signed.status.get_or_insert_default();
    match validate(&csr.spec.signer_name, &request, &usages) {
        None => return Ok(None),
        Some(Err(why)) => status
            .conditions
            .get_or_insert_default()
            .push(CertificateSigningRequestCondition {
                type_: "Failed".to_owned(),
                status: "True".to_owned(),
                reason: Some("SignerValidationFailure".to_owned()),
                message: Some(why),
                last_update_time: Some(Time(Timestamp::now())),
                last_transition_time: None,
            }),
        Some(Ok(())) => {
            let authority = authority(&signer.files).map_err(|e| e.to_string())?;
            let life = life(csr.spec.expiration_seconds, signer.longest);
            let contents = contents(request, &usages, life, &authority, Timestamp::now())?;
            let pem = authority
                .issue(contents, rand::random())
                .map_err(|e| format!("error auto signing csr: {e}"))?;
            status.certificate = Some(steersman_types::ByteString(pem.into_bytes()));
        }
    }
    match signer.client.update_status(&signed).await {
        Err(error) if !error.is_not_found() => Err(error.to_string()),
        _ => Ok(None),
    }
}

/// What was asked for, between ten minutes and the longest allowed.
fn life(asked: Option<i32>, longest: Duration) -> SignedDuration {
    let longest = SignedDuration::try_from(longest).unwrap_or(SignedDuration::from_hours(8760));
    match asked.map(|s| SignedDuration::from_secs(i64::from(s))) {
        None => longest,
        Some(asked) if asked > longest => longest,
        Some(asked) => asked.max(SHORTEST),
    }
}

/// Pure: the certificate for a request.
fn contents(
    request: Request,
    usages: &[String],
    life: SignedDuration,
    authority: &Authority,
    now: Timestamp,
) -> Result<Contents, String> {
    let unix = |t: Timestamp| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(t.as_second()).unwrap_or(0));
    let signer_end = authority.validity().not_after.to_system_time();
    if unix(now) >= signer_end {
        return Err("refusing to sign a certificate that expired in the past: the signer has expired".to_owned());
    }
    let end = if life < SHORT {
        now + life
    } else {
        now + life - BACKDATE
    };
    let bad = |e: der::Error| format!("error auto signing csr: {e}");
    // Two-digit years until 2049, as RFC 5280 wants.
    let time = |t: SystemTime| match UtcTime::from_system_time(t) {
        Ok(short) => Ok(x509_cert::time::Time::UtcTime(short)),
        Err(_) => GeneralizedTime::from_system_time(t)
            .map(x509_cert::time::Time::GeneralTime)
            .map_err(bad),
    };
    let validity = Validity::new(time(unix(now - BACKDATE))?, time(unix(end).min(signer_end))?);
    let extensions = extensions(&request, usages, authority)?;
    Ok(Contents {
        subject: request.subject,
        public_key: request.public_key,
        validity,
        extensions,
    })
}

fn extensions(request: &Request, usages: &[String], authority: &Authority) -> Result<Vec<Extension>, String> {
    let mut all: Vec<Extension> = Vec::new();
    let bad = |e: der::Error| format!("error auto signing csr: {e}");
    let subject = &request.subject;
    let (mut keys, mut purposes) = (Vec::new(), Vec::new());
    for usage in usages {
        match (key_usage(usage), purpose(usage)) {
            (Some(key), _) => keys.push(key),
            (_, Some(purpose)) => purposes.push(purpose),
            _ => return Err(format!("unrecognized usage value: {usage:?}")),
        }
    }
    if !keys.is_empty() {
        let usage = keys
            .into_iter()
            .fold(der::flagset::FlagSet::<KeyUsages>::default(), |all, one| all | one);
        all.push(KeyUsage(usage).to_extension(subject, &all).map_err(bad)?);
    }
    if !purposes.is_empty() {
        all.push(ExtendedKeyUsage(purposes).to_extension(subject, &all).map_err(bad)?);
    }
    let not_a_ca = BasicConstraints {
        ca: false,
        path_len_constraint: None,
    };
    all.push(not_a_ca.to_extension(subject, &all).map_err(bad)?);
    if let Some(identifier) = authority.key_identifier() {
        all.push(identifier.to_extension(subject, &all).map_err(bad)?);
    }
    if !request.alternative_names.is_empty() {
        let names = SubjectAltName(request.alternative_names.clone());
        all.push(names.to_extension(subject, &all).map_err(bad)?);
    }
    Ok(all)
}

fn key_usage(usage: &str) -> Option<KeyUsages> {
    Some(match usage {
        "signing" | "digital signature" => KeyUsages::DigitalSignature,
        "content commitment" => KeyUsages::NonRepudiation,
        "key encipherment" => KeyUsages::KeyEncipherment,
        "key agreement" => KeyUsages::KeyAgreement,
        "data encipherment" => KeyUsages::DataEncipherment,
        "cert sign" => KeyUsages::KeyCertSign,
        "crl sign" => KeyUsages::CRLSign,
        "encipher only" => KeyUsages::EncipherOnly,
        "decipher only" => KeyUsages::DecipherOnly,
        _ => return None,
    })
}

fn purpose(usage: &str) -> Option<ObjectIdentifier> {
    const IPSEC_END: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.5");
    const IPSEC_TUNNEL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.6");
    const IPSEC_USER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.7");
    const MICROSOFT_SGC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.10.3.3");
    const NETSCAPE_SGC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.113730.4.1");
    Some(match usage {
        "any" => rfc5280::ANY_EXTENDED_KEY_USAGE,
        "server auth" => rfc5280::ID_KP_SERVER_AUTH,
        "client auth" => rfc5280::ID_KP_CLIENT_AUTH,
        "code signing" => rfc5280::ID_KP_CODE_SIGNING,
        "email protection" | "s/mime" => rfc5280::ID_KP_EMAIL_PROTECTION,
        "ipsec end system" => IPSEC_END,
        "ipsec tunnel" => IPSEC_TUNNEL,
        "ipsec user" => IPSEC_USER,
        "timestamping" => rfc5280::ID_KP_TIME_STAMPING,
        "ocsp signing" => rfc5280::ID_KP_OCSP_SIGNING,
        "microsoft sgc" => MICROSOFT_SGC,
        "netscape sgc" => NETSCAPE_SGC,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
