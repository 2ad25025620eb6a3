//! CertificateSigningRequests: asked by anybody, approved by some, signed by one.
//!
//! Who asks is written into the spec by the server. Signing and approval have subresources of their own.

use crate::internal::pretty;
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, each_mut, put_back, same, set, strings};
use crate::{Column, Context, Kind, Status, Table, diff, meta, nothing};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use steersman_schema::field::{FieldError, FieldErrors, Path, quote};
use steersman_schema::name;
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const EXPIRATION_MIN: i64 = 600;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "certificates.k8s.io",
    version: "v1",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    default: nothing::default,
    prepare_create,
    prepare_update: |new, old, _| {
        put_back(new, old, "spec");
        put_back(new, old, "status");
    },
    validate: |csr| validate(csr, None),
    validate_update: |new, old| changed(new, old, Writer::Plain),
    warnings: nothing::warnings,
    validate_name: |_, _| Vec::new(),
    status: Some(Status {
        prepare: prepare_status,
        validate: |new, old| changed(new, old, Writer::Signer),
    }),
    updates: &[(
        "approval",
        Status { prepare: prepare_approval, validate: |new, old| changed(new, old, Writer::Approver) },
    )],
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[("spec.signerName", |c| c.text("/spec/signerName").into())],
    table: Some(Table { columns: COLUMNS, row, conditions: nothing::conditions }),
    example: "apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: ada}
spec:
  request: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlISU1IQUNBUUF3RGpFTU1Bb0dBMVVFQXd3RFlXUmhNRmt3RXdZSEtvWkl6ajBDQVFZSUtvWkl6ajBEQVFjRApRZ0FFY09Zb1EyTC94MXVOS29Tb2JmMWcwU2ZQa1liWkExQmV4NjV0azRUMDlyNEtINTFrVnNPcU5sUlc0Sy9QCjJaYWpWaVptU1Bwb1V4R3oyK3AxSVNKVjM2QUFNQW9HQ0NxR1NNNDlCQU1DQTBnQU1FVUNJUUQ4Mkw4NVBLNzIKWHYrcWtmR1cxS0hyelhTakRucFBQS1ZuK3lkcXFoTVhzUUlnTVlZMzNDWHV4NENoU0lZWmRxVlZ1SCs5QzNNOApYNHdzYWlUejFQMHNPbDg9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=
  signerName: kubernetes.io/kube-apiserver-client
  usages: [client auth]
",
};

/// Which part of a request a write is for.
#[derive(Clone, Copy, PartialEq)]
enum Writer {
    Plain,
    Signer,
    Approver,
}

fn prepare_create(csr: &mut Value, context: &Context) {
    if let Some(spec) = child(csr, "spec") {
        for key in ["username", "uid", "groups", "extra"] {
            crate::view::remove(spec, key);
        }
        for (key, text) in [("username", &context.user), ("uid", &context.uid)] {
            if !text.is_empty() {
                set(spec, key, text.as_str());
            }
        }
        if !context.groups.is_empty() {
            set(spec, "groups", context.groups.clone());
        }
        if !context.extra.is_empty() {
            set(spec, "extra", json!(context.extra));
        }
    }
    set(csr, "status", json!({}));
}

fn decided(condition: &Value) -> bool {
    matches!(condition.text("/type"), "Approved" | "Denied")
}

fn prepare_status(new: &mut Value, old: &Value, context: &Context) {
    put_back(new, old, "spec");
    // A signer that knows less about conditions keeps the approver's as they are.
    for kind in ["Approved", "Denied"] {
        let is = |c: &&Value| c.text("/type") == kind;
        let before: Vec<Value> = old.items("/status/conditions").iter().filter(is).cloned().collect();
        if new.items("/status/conditions").iter().filter(is).count() == before.len() {
            let slots = each_mut(new, "/status/conditions").filter(|c| c.text("/type") == kind);
            slots.zip(before).for_each(|(slot, was)| *slot = was);
        }
    }
    stamp(new, old, context);
}

fn prepare_approval(new: &mut Value, old: &Value, context: &Context) {
    put_back(new, old, "spec");
    let conditions: Vec<Value> = new.items("/status/conditions").to_vec();
    let mut status = old.at("/status").clone();
    if !status.is_object() {
        status = json!({});
    }
    if conditions.is_empty() {
        crate::view::remove(&mut status, "conditions");
    } else {
        set(&mut status, "conditions", conditions);
    }
    set(new, "status", status);
    stamp(new, old, context);
}

fn stamp(new: &mut Value, old: &Value, context: &Context) {
    for condition in each_mut(new, "/status/conditions") {
        if !condition.has("/lastUpdateTime") {
            set(condition, "lastUpdateTime", context.now.as_str());
        }
        if !condition.has("/lastTransitionTime") {
            let like = |c: &&Value| {
                c.text("/type") == condition.text("/type")
                    && c.text("/status") == condition.text("/status")
                    && c.has("/lastTransitionTime")
            };
            let before = old.items("/status/conditions").iter().find(like);
            let time = before
                .map_or(context.now.as_str(), |c| c.text("/lastTransitionTime"))
                .to_string();
            set(condition, "lastTransitionTime", time);
        }
    }
}

fn validate(csr: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = csr.at("/spec");
    let mut errors = Vec::new();
    if let Err(why) = check_request(spec.text("/request")) {
        errors.push(FieldError::invalid(&path.child("request"), spec.at("/request"), why));
    }
    let usages = spec.items("/usages");
    let place = path.child("usages");
    if usages.is_empty() {
        errors.push(FieldError::required(&place, ""));
    }
    let unchanged = old.is_some_and(|o| same(o.at("/spec"), spec));
    if !unchanged {
        for (i, usage) in strings(usages).enumerate().filter(|(_, u)| !USAGES.contains(u)) {
            errors.push(FieldError::not_supported(&place.index(i), usage, USAGES));
        }
        let mut seen = BTreeSet::new();
        for (i, usage) in strings(usages).enumerate() {
            if !seen.insert(usage) {
                errors.push(FieldError::duplicate(&place.index(i), usage));
            }
        }
    }
    let signer = spec.text("/signerName");
    let place = path.child("signerName");
    if signer == LEGACY_SIGNER && !unchanged {
        errors.push(FieldError::invalid(
            &place,
            signer,
            "the legacy signerName is not allowed via this API version",
        ));
    } else {
        errors.extend(signer_name(signer, &place));
    }
    if let Some(seconds) = spec.at("/expirationSeconds").as_i64().filter(|s| *s < EXPIRATION_MIN) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, why));
    }
    errors.extend(conditions(csr.items("/status/conditions")));
    if let Err(why) = check_certificates(csr.text("/status/certificate")) {
        let place = Path::new("status").child("certificate");
        errors.push(FieldError::invalid(&place, "<certificate data>", why));
    }
    errors
}

/// Blocks of a PEM text: label and content.
fn pem(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((label, body, after)) = next_block(rest) {
        let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
        if let Ok(bytes) = STANDARD.decode(body) {
            blocks.push((label.to_string(), bytes));
        }
        rest = after;
    }
    blocks
}

fn next_block(text: &str) -> Option<(&str, &str, &str)> {
    let (_, text) = text.split_once("-----BEGIN ")?;
    let (label, text) = text.split_once("-----")?;
    let (body, rest) = text.split_once("-----END ")?;
    Some((label, body, rest.split_once("-----").map_or("", |(_, after)| after)))
}

fn decoded(text: &str) -> String {
    String::from_utf8_lossy(&STANDARD.decode(text).unwrap_or_default()).into_owned()
}

/// Upstream's words where they are upstream's own; the parser's otherwise.
fn check_request(text: &str) -> Result<(), String> {
    let text = decoded(text);
    let blocks = pem(&text);
    let Some((_, der)) = blocks.first().filter(|(label, _)| label == "CERTIFICATE REQUEST") else {
        return Err("PEM block type must be CERTIFICATE REQUEST".into());
    };
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|e| format!("asn1: structure error: {e}"))?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".into());
    }
    request
        .verify_signature()
        .map_err(|_| "x509: signature check failed".to_string())
}

fn check_certificates(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let text = decoded(text);
    let blocks = pem(&text);
    if blocks.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".into());
    }
    for (label, der) in &blocks {
        if label != "CERTIFICATE" {
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found {}",
                quote(label)
            ));
        }
        X509Certificate::from_der(der).map_err(|e| format!("x509: malformed certificate: {e}"))?;
    }
    Ok(())
}

fn conditions(list: &[Value]) -> FieldErrors {
    let path = Path::new("status").child("conditions");
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, condition) in list.iter().enumerate() {
        let at = path.index(i);
        let (kind, status) = (condition.text("/type"), condition.text("/status"));
        if kind.is_empty() {
            errors.push(FieldError::required(&at.child("type"), ""));
        }
        let known: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        if status.is_empty() {
            errors.push(FieldError::required(&at.child("status"), ""));
        } else if !known.contains(&status) {
            errors.push(FieldError::not_supported(&at.child("status"), status, known));
        }
        let other = if kind == "Approved" { "Denied" } else { "Approved" };
        if decided(condition) && seen.contains(other) {
            let why = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(&path, kind, why));
        }
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(&at.child("type"), kind));
        }
    }
    errors
}

fn changed(new: &Value, old: &Value, writer: Writer) -> FieldErrors {
    let mut errors = validate(new, Some(old));
    if !errors.is_empty() && !validate(old, Some(old)).is_empty() {
        errors.clear();
    }
    let path = Path::new("status").child("conditions");
    let of = |csr: &Value, kind: &str| -> Vec<Value> {
        csr.items("/status/conditions")
            .iter()
            .filter(|c| c.text("/type") == kind)
            .cloned()
            .collect()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        if of(new, kind).len() < of(old, kind).len() {
            let why = format!("updates may not remove a condition of type {}", quote(kind));
            errors.push(FieldError::forbidden(&path, why));
        }
    }
    for kind in ["Approved", "Denied"] {
        let (after, before) = (of(new, kind), of(old, kind));
        if writer == Writer::Approver || after.len() < before.len() {
            continue;
        }
        if after.len() > before.len() {
            let why = format!("updates may not add a condition of type {}", quote(kind));
            errors.push(FieldError::forbidden(&path, why));
        } else if !same(&json!(after), &json!(before)) {
            let shown = |list: &[Value]| pretty("CertificateSigningRequestCondition", &json!(list));
            let diff = diff::unified(&shown(&before), &shown(&after));
            let why = format!("updates may not modify a condition of type {}\n{diff}", quote(kind));
            errors.push(FieldError::forbidden(&path, why));
        }
    }
    let was = old.text("/status/certificate");
    if new.text("/status/certificate") != was {
        let place = Path::new("status").child("certificate");
        if writer != Writer::Signer {
            errors.push(FieldError::forbidden(&place, "updates may not set certificate content"));
        } else if !was.is_empty() {
            errors.push(FieldError::forbidden(
                &place,
                "updates may not modify existing certificate content",
            ));
        }
    }
    errors
}

/// Whether a signer's domain is Kubernetes' own.
pub fn is_kubernetes_signer(signer: &str) -> bool {
    let host = signer.split('/').next().unwrap_or_default();
    host == "kubernetes.io" || host.ends_with(".kubernetes.io")
}

/// Faults of a signer's name: `example.com/signer`.
pub fn signer_name(signer: &str, path: &Path) -> FieldErrors {
    if signer.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let Some((domain, rest)) = signer.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return vec![FieldError::invalid(path, signer, why)];
    };
    let mut errors = Vec::new();
    if domain.len() > name::SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(path, name::SUBDOMAIN_MAX));
    }
    errors.extend(labels(domain, name::dns1123_label, path));
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, domain, why));
    }
    errors.extend(labels(rest, name::dns1123_subdomain, path));
    let most = name::SUBDOMAIN_MAX + 1 + name::SUBDOMAIN_MAX + name::LABEL_MAX + 1;
    if signer.len() > most {
        errors.push(FieldError::too_long(path, most));
    }
    errors
}

/// Faults of the first bad label between dots.
fn labels(text: &str, rule: fn(&str) -> Vec<String>, path: &Path) -> FieldErrors {
    let Some((label, faults)) = text.split('.').map(|l| (l, rule(l))).find(|(_, f)| !f.is_empty()) else {
        return Vec::new();
    };
    let why = |fault| format!("validating label {}: {fault}", quote(label));
    faults
        .into_iter()
        .map(|fault| FieldError::invalid(path, text, why(fault)))
        .collect()
}

/// Faults of a ClusterTrustBundle's name, which starts with its signer's.
pub fn bundle_name(text: &str) -> Vec<String> {
    match text.rsplit_once(':') {
        None => meta::name_subdomain(text, false),
        Some((_, rest)) => meta::name_subdomain(rest, false),
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    AGE,
    column("SignerName", "string", 0, "The signer that is asked."),
    column("Requestor", "string", 0, "The user who asked."),
    column(
        "RequestedDuration",
        "string",
        0,
        "How long the certificate should be valid.",
    ),
    column(
        "Condition",
        "string",
        0,
        "Whether the request is pending, approved, denied, failed, issued.",
    ),
];

fn row(csr: &Value, now: &Timestamp) -> Vec<Value> {
    let has = |kind: &str| csr.items("/status/conditions").iter().any(|c| c.text("/type") == kind);
    let mut condition = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied".to_string(),
        (_, true) => "Approved".to_string(),
        _ => "Pending".to_string(),
    };
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if !csr.text("/status/certificate").is_empty() {
        condition.push_str(",Issued");
    }
    let or_none = |text: &str| {
        if text.is_empty() {
            "<none>".to_string()
        } else {
            text.to_string()
        }
    };
    let duration = csr
        .at("/spec/expirationSeconds")
        .as_i64()
        .map(table::human)
        .unwrap_or_default();
    vec![
        csr.text("/metadata/name").into(),
        table::age(csr, now),
        or_none(csr.text("/spec/signerName")).into(),
        csr.text("/spec/username").into(),
        or_none(&duration).into(),
        condition.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_writes_who_asks() {
        let mut csr = json!({"spec": {"username": "root", "groups": ["system:masters"]}});
        let context = Context {
            now: "2026-01-01T00:00:00Z".into(),
            user: "ada".into(),
            groups: vec!["g".into()],
            ..Context::default()
        };
        prepare_create(&mut csr, &context);
        assert_eq!(csr, json!({"spec": {"username": "ada", "groups": ["g"]}, "status": {}}));
    }

    #[test]
    fn a_signer_may_not_approve() {
        let old = json!({"status": {}});
        let new = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}});
        let texts = |w| {
            changed(&new, &old, w)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            texts(Writer::Signer),
            ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
        );
        assert!(texts(Writer::Approver).is_empty());
    }

    #[test]
    fn signers_have_a_domain_and_a_path() {
        let texts = |s: &str| {
            signer_name(s, &Path::new("s"))
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert!(texts("kubernetes.io/kubelet-serving").is_empty());
        assert_eq!(texts(""), ["s: Required value"]);
        assert_eq!(
            texts("x"),
            [
                "s: Invalid value: \"x\": must be a fully qualified domain and path of the form 'example.com/signer-name'"
            ]
        );
        assert_eq!(
            texts("x/y"),
            ["s: Invalid value: \"x\": should be a domain with at least two segments separated by dots"]
        );
    }
}
