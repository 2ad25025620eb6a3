//! Projected volumes: several small sources in one directory, whose paths must not collide.

use super::Options;
use super::volumes::{downward_file, file_mode, key_to_path, local_path, need};
use crate::view::{View, invalid};
use crate::{certificate, meta, selector};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_types::LabelSelector;

const KEY_TYPES: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const CONFLICT: &str = "conflicting duplicate paths";

/// Faults of a projected source.
pub fn validate(source: &Value, path: &Path, options: Options) -> FieldErrors {
    let mut errors = file_mode(source, "defaultMode", path);
    let mut paths = BTreeSet::new();
    for (i, source) in source.items("/sources").iter().enumerate() {
        let at = path.child("sources").index(i);
        let mut count = 0;
        let mut each = |key: &str| {
            let found = source.get(key).filter(|v| !v.is_null());
            count += usize::from(found.is_some());
            found.map(|v| (v, at.child(key)))
        };
        for key in ["secret", "configMap"] {
            if let Some((bag, at)) = each(key) {
                errors.extend(need(bag, &at, &["name"]));
                for (i, item) in bag.items("/items").iter().enumerate() {
                    errors.extend(key_to_path(item, &at.child("items").index(i)));
                    errors.extend(collide(item.text("/path"), bag.text("/name"), &mut paths, path));
                }
            }
        }
        if let Some((downward, at)) = each("downwardAPI") {
            for file in downward.items("/items") {
                errors.extend(downward_file(file, &at));
                errors.extend(collide(file.text("/path"), file.text("/path"), &mut paths, path));
            }
        }
        if let Some((token, at)) = each("serviceAccountToken") {
            errors.extend(service_account(token, &at, path, options));
        }
        if let Some((bundle, at)) = each("clusterTrustBundle") {
            errors.extend(trust_bundle(bundle, &at));
            let target = bundle.text("/path");
            if !paths.insert(target) {
                errors.push(FieldError::invalid(path, target, CONFLICT));
            }
        }
        if let Some((certificate, at)) = each("podCertificate") {
            errors.extend(pod_certificate(certificate, &at));
            let targets = ["credentialBundlePath", "keyPath", "certificateChainPath"].map(|f| (f, certificate.get(f)));
            let mut any = false;
            for (field, target) in targets {
                let Some(target) = target.and_then(Value::as_str).filter(|t| !t.is_empty()) else {
                    continue;
                };
                any = true;
                errors.extend(local_path(target, &at.child(field)));
                errors.extend(collide(target, target, &mut paths, path));
            }
            if !any {
                let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
                errors.push(FieldError::required(&at, why));
            }
        }
        if count > 1 {
            errors.push(FieldError::forbidden(
                &at,
                "may not specify more than 1 volume type per source",
            ));
        }
    }
    errors
}

fn collide<'a>(target: &'a str, shown: &str, paths: &mut BTreeSet<&'a str>, path: &Path) -> Option<FieldError> {
    let clash = !target.is_empty() && !paths.insert(target);
    clash.then(|| FieldError::invalid(path, shown, CONFLICT))
}

fn service_account(token: &Value, at: &Path, volume: &Path, options: Options) -> FieldErrors {
    let mut errors = Vec::new();
    let seconds = token.int("/expirationSeconds");
    let place = at.child("expirationSeconds");
    if seconds < 600 {
        errors.push(FieldError::invalid(
            &place,
            seconds,
            "may not specify a duration less than 10 minutes",
        ));
    }
    if seconds > 1 << 32 {
        errors.push(FieldError::invalid(
            &place,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    // Upstream reports this path at the volume.
    let target = token.text("/path");
    if target.is_empty() {
        errors.push(FieldError::required(&volume.child("path"), ""));
    } else if !options.lenient {
        errors.extend(local_path(target, &volume.child("path")));
    }
    errors
}

fn trust_bundle(bundle: &Value, at: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let selector_at = at.child("labelSelector");
    match (bundle.at("/name").as_str(), bundle.at("/signerName").as_str()) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(
                at,
                bundle,
                "only one of name and signerName may be used",
            ));
        }
        (Some(own), None) => {
            let place = at.child("name");
            if own.is_empty() {
                errors.push(FieldError::required(&place, "must be a valid object name"));
            }
            let faults = certificate::bundle_name(own);
            let faults = faults
                .into_iter()
                .map(|m| format!("not a valid clustertrustbundlename: {m}"))
                .collect();
            errors.extend(invalid(&place, own, faults));
            if bundle.has("/labelSelector") {
                let shown = selector::shown(bundle.at("/labelSelector"));
                errors.push(FieldError::invalid(
                    &selector_at,
                    shown,
                    "labelSelector must be unset if name is specified",
                ));
            }
        }
        (None, Some(signer)) => {
            let place = at.child("signerName");
            if signer.is_empty() {
                errors.push(FieldError::required(&place, "must be a valid signer name"));
            }
            errors.extend(certificate::signer_name(signer, &place));
            if let Ok(typed) = LabelSelector::deserialize(bundle.at("/labelSelector")) {
                errors.extend(selector::validate(&typed, false, &selector_at));
            }
        }
        (None, None) => errors.push(FieldError::required(at, "either name or signerName must be specified")),
    }
    let target = bundle.text("/path");
    if target.is_empty() {
        errors.push(FieldError::required(&at.child("path"), ""));
    }
    errors.extend(local_path(target, &at.child("path")));
    errors
}

fn pod_certificate(source: &Value, at: &Path) -> FieldErrors {
    let signer = source.text("/signerName");
    let mut errors = certificate::signer_name(signer, &at.child("signerName"));
    if source.has("/userAnnotations") {
        errors.extend(meta::validate_annotations(
            source.at("/userAnnotations"),
            &at.child("userAnnotations"),
        ));
    }
    let kind = source.text("/keyType");
    if !KEY_TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(&at.child("keyType"), kind, KEY_TYPES));
    }
    if let Some(seconds) = source.at("/maxExpirationSeconds").as_i64() {
        let place = at.child("maxExpirationSeconds");
        let most = if certificate::is_kubernetes_signer(signer) {
            86_400
        } else {
            7_862_400
        };
        let mut fault = |why: String| errors.push(FieldError::invalid(&place, BadValue::from(seconds), why));
        if seconds < 3600 {
            fault("if provided, maxExpirationSeconds must be >= 3600".into());
        }
        if seconds > most {
            fault(format!("if provided, maxExpirationSeconds must be <= {most}"));
        }
    }
    errors
}
