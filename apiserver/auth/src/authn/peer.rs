//! Client certificates: who a connection's certificate says it is, checked against certificate authorities that may be
//! replaced while the server runs.
//!
//! The TLS handshake only proves possession of the key (the server's verifier accepts every certificate); the chain is
//! checked here, when a request is authenticated, so that an expired or foreign certificate is an answer with status 401
//! and not a broken connection, and so that a certificate expires on a connection that stays open. A chain's check is kept
//! per connection for [`KEPT_SECONDS`], as it costs 100 µs and a connection sends thousands of requests.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};
use x509_parser::asn1_rs::Oid;
use x509_parser::oid_registry;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::user::{CREDENTIAL_ID, User, UserInfo};

/// How long a successful check of a chain is believed.
const KEPT_SECONDS: i64 = 60;
/// Certificates beyond these many in a chain are not looked at.
const MAX_CHAIN: usize = 10;

/// The client side of one connection, made once when the handshake is done.
#[derive(Default)]
pub struct Peer {
    chain: Vec<CertificateDer<'static>>,
    /// Successful checks, one per pool.
    checked: Mutex<Vec<Checked>>,
    /// What the certificate says, read once: thousands of requests ask.
    user: OnceLock<Result<Option<User>, String>>,
}

struct Checked {
    /// The pool's content at the time: a replaced pool is another allocation.
    anchors: Arc<Anchors>,
    until: i64,
}

impl Peer {
    /// `chain` is what the client sent, its own certificate first; empty when it sent none.
    pub fn new(chain: &[CertificateDer<'_>]) -> Self {
        let chain = chain.iter().take(MAX_CHAIN).map(|c| c.clone().into_owned()).collect();
        Self {
            chain,
            ..Self::default()
        }
    }

    /// A connection without client certificate.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn is_none(&self) -> bool {
        self.chain.is_empty()
    }

    /// Checks the chain against a pool, for the purpose of client authentication.
    ///
    /// # Errors
    /// Why it does not hold, for the log.
    pub(crate) fn check(&self, pool: &CaPool, now: Timestamp) -> Result<(), String> {
        let anchors = pool.anchors.read().clone();
        let second = now.as_second();
        {
            let mut checked = self.checked.lock();
            checked.retain(|c| c.until > second);
            if checked.iter().any(|c| Arc::ptr_eq(&c.anchors, &anchors)) {
                return Ok(());
            }
        }
        let until = anchors
            .check(&self.chain, now)?
            .min(second.saturating_add(KEPT_SECONDS));
        let mut checked = self.checked.lock();
        // Two pools in use and one replaced: older entries only wait for their time.
        if checked.len() < 4 {
            checked.push(Checked { anchors, until });
        }
        Ok(())
    }

    /// The subject's user: common name, organizations and uid, with `system:authenticated`. `None` when there is no
    /// common name.
    ///
    /// # Errors
    /// When the certificate cannot be read, or its uid attributes are not one non-empty string.
    pub(crate) fn user(&self) -> Result<Option<User>, String> {
        let read = || {
            let Some(leaf) = self.chain.first() else {
                return Ok(None);
            };
            Ok(user_of(leaf)?.map(|user| Arc::new(user.with_authenticated_group())))
        };
        self.user.get_or_init(read).clone()
    }

    /// The subject's common name, empty when there is none.
    pub(crate) fn common_name(&self) -> String {
        let Some(leaf) = self.chain.first() else {
            return String::new();
        };
        X509Certificate::from_der(leaf)
            .ok()
            .and_then(|(_, c)| last_common_name(&c))
            .unwrap_or_default()
    }
}

fn last_common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    certificate
        .subject()
        .iter_common_name()
        .last()
        .and_then(|a| a.as_str().ok())
        .map(str::to_owned)
}

/// The user that a certificate's subject names, see [`Peer::user`]. Does not check who signed it.
fn user_of(leaf: &[u8]) -> Result<Option<UserInfo>, String> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| format!("x509: malformed certificate: {e}"))?;
    let name = last_common_name(&certificate).unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    let mut groups = Vec::new();
    for attribute in certificate
        .subject()
        .iter_by_oid(&oid_registry::OID_X509_ORGANIZATION_NAME)
    {
        // A group that cannot be read must not vanish silently: the user would be another one than the signer meant.
        groups.push(text(attribute).ok_or("unable to parse an organization into a string")?);
    }
    // iso.org.dod.internet.private.enterprise.kubernetes.2
    let uid_oid = Oid::from(&[1, 3, 6, 1, 4, 1, 57683, 2]).map_err(|_| "no uid attribute type")?;
    let mut uids = Vec::new();
    for attribute in certificate.subject().iter_by_oid(&uid_oid) {
        uids.push(text(attribute).ok_or("unable to parse UID into a string")?);
    }
    let uid = match uids.as_slice() {
        [] => String::new(),
        [uid] if uid.is_empty() => return Err("UID cannot be an empty string".into()),
        [uid] => uid.clone(),
        many => return Err(format!("expected 1 UID, but found multiple: [{}]", many.join(" "))),
    };
    let credential = format!("X509SHA256={}", hex::encode(Sha256::digest(leaf)));
    let extra = [(CREDENTIAL_ID.to_owned(), vec![credential])].into();
    Ok(Some(UserInfo {
        name,
        uid,
        groups,
        extra,
    }))
}

/// Certificate authorities that vouch for clients; shared, replaceable.
pub struct CaPool {
    anchors: RwLock<Arc<Anchors>>,
}

struct Anchors {
    /// With the last second of validity: the path builder does not look at an anchor's own dates, upstream does.
    anchors: Vec<(TrustAnchor<'static>, i64)>,
}

impl CaPool {
    /// Reads every certificate of a PEM bundle.
    ///
    /// # Errors
    /// When there is none, or one cannot be read.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        Ok(Self {
            anchors: RwLock::new(Arc::new(Anchors::from_pem(pem)?)),
        })
    }

    /// Replaces the pool's certificates; on error the old ones stay.
    ///
    /// # Errors
    /// As [`CaPool::from_pem`].
    pub fn replace(&self, pem: &[u8]) -> Result<(), String> {
        let anchors = Arc::new(Anchors::from_pem(pem)?);
        *self.anchors.write() = anchors;
        Ok(())
    }
}

impl Anchors {
    fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let mut anchors = Vec::new();
        for block in Pem::iter_from_buffer(pem)
            .filter_map(Result::ok)
            .filter(|b| b.label == "CERTIFICATE")
        {
            let der = CertificateDer::from(block.contents);
            let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| format!("malformed certificate: {e}"))?;
            let last = parsed.validity().not_after.timestamp();
            let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|e| format!("unusable certificate: {e}"))?;
            anchors.push((anchor.to_owned(), last));
        }
        if anchors.is_empty() {
            Err("data does not contain any valid certificates".into())
        } else {
            Ok(Self { anchors })
        }
    }

    /// Until when the chain holds, seconds of the epoch.
    fn check(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<i64, String> {
        let (leaf, intermediates) = chain.split_first().ok_or("no certificate")?;
        let second = now.as_second();
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(second).unwrap_or(0)));
        let valid: Vec<_> = self
            .anchors
            .iter()
            .filter(|(_, last)| *last >= second)
            .map(|(a, _)| a.clone())
            .collect();
        let failed = |e: webpki::Error| format!("verifying certificate {} failed: {}", identifier(leaf), words(&e));
        let end_entity = EndEntityCert::try_from(leaf).map_err(failed)?;
        let usage = KeyUsage::client_auth();
        end_entity
            .verify_for_usage(ALL_VERIFICATION_ALGS, &valid, intermediates, time, usage, None, None)
            .map_err(failed)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|e| format!("x509: malformed certificate: {e}"))?;
        Ok(parsed.validity().not_after.timestamp())
    }
}

/// A certificate in a log line, as upstream shows it.
fn identifier(leaf: &CertificateDer<'_>) -> String {
    use x509_parser::extensions::ParsedExtension;
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return "(malformed)".into();
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":");
    let (mut subject, mut authority) = (String::new(), String::new());
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => subject = hex(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                authority = id.key_identifier.as_ref().map(|id| hex(id.0)).unwrap_or_default();
            }
            _ => {}
        }
    }
    format!(
        "SN={}, SKID={subject}, AKID={authority}",
        certificate.tbs_certificate.serial
    )
}

/// The common failures in upstream's words.
fn words(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnknownIssuer => "x509: certificate signed by unknown authority".into(),
        webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
            "x509: certificate has expired or is not yet valid".into()
        }
        webpki::Error::RequiredEkuNotFoundContext(_) => "x509: certificate specifies an incompatible key usage".into(),
        other => format!("x509: {other}"),
    }
}
