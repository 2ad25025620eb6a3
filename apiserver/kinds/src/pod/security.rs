//! Security contexts of pods and containers, for Linux and Windows.

use super::containers::all;
use super::volumes::descending;
use crate::internal;
use crate::view::{View, invalid};
use serde_json::Value;
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;

const LOCALHOST_MAX: usize = 4095;
const CREDENTIAL_SPEC_MAX: usize = 64 * 1024;

fn ids(context: &Value, keys: &[&str], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for key in keys {
        if let Some(id) = context.get(*key).and_then(Value::as_i64) {
            let faults = name::unix_id(id).into_iter();
            errors.extend(faults.map(|m| FieldError::invalid(&path.child(key), id, m)));
        }
    }
    errors
}

/// Faults of a container's context.
pub fn container(context: &Value, host_users: bool, path: &Path) -> FieldErrors {
    if context.is_null() {
        return Vec::new();
    }
    let mut errors = ids(context, &["runAsUser", "runAsGroup"], path);
    if let Some(mount) = context.at("/procMount").as_str() {
        let place = path.child("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            errors.push(FieldError::not_supported(&place, mount, &["Default", "Unmasked"]));
        }
        if host_users && mount == "Unmasked" {
            errors.push(FieldError::invalid(
                &place,
                mount,
                "`hostUsers` must be false to use `Unmasked`",
            ));
        }
    }
    errors.extend(seccomp(context.at("/seccompProfile"), &path.child("seccompProfile")));
    if context.at("/allowPrivilegeEscalation").as_bool() == Some(false) {
        if context.flag("/privileged") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, shown(context), why));
        }
        for capability in context
            .items("/capabilities/add")
            .iter()
            .filter(|c| *c == "CAP_SYS_ADMIN")
        {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            debug_assert!(capability.is_string());
            errors.push(FieldError::invalid(path, shown(context), why));
        }
    }
    errors.extend(windows(context.at("/windowsOptions"), &path.child("windowsOptions")));
    errors.extend(app_armor(
        context.at("/appArmorProfile"),
        &path.child("appArmorProfile"),
    ));
    errors
}

/// Upstream prints its internal struct.
fn shown(context: &Value) -> BadValue {
    BadValue::Raw(internal::compact("SecurityContext", context))
}

fn seccomp(profile: &Value, path: &Path) -> FieldErrors {
    if profile.is_null() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let kind = profile.text("/type");
    match kind {
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        "" => {
            errors.push(FieldError::required(
                &path.child("type"),
                "type is required when seccompProfile is set",
            ));
        }
        _ => {
            let known = ["Localhost", "RuntimeDefault", "Unconfined"];
            errors.push(FieldError::not_supported(&path.child("type"), kind, &known));
        }
    }
    let place = path.child("localhostProfile");
    match (kind, profile.at("/localhostProfile").as_str()) {
        ("Localhost", None) => {
            errors.push(FieldError::required(
                &place,
                "must be set when seccomp type is Localhost",
            ));
        }
        ("Localhost", Some(target)) => errors.extend(descending(target, &place)),
        (_, Some(_)) => {
            let raw = internal::compact("SeccompProfile", profile);
            let why = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(&place, BadValue::Raw(raw), why));
        }
        (_, None) => {}
    }
    errors
}

fn app_armor(profile: &Value, path: &Path) -> FieldErrors {
    if profile.is_null() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let place = path.child("localhostProfile");
    let local = profile.at("/localhostProfile").as_str();
    let needed = "must be set when AppArmor type is Localhost";
    match profile.text("/type") {
        "Localhost" => match local {
            None => errors.push(FieldError::required(&place, needed)),
            Some(text) => {
                if text.trim() != text {
                    errors.push(FieldError::invalid(&place, text, "must not be padded with whitespace"));
                } else if text.is_empty() {
                    errors.push(FieldError::required(&place, needed));
                }
                if text.len() > LOCALHOST_MAX {
                    errors.push(FieldError::too_long(&place, LOCALHOST_MAX));
                }
            }
        },
        "RuntimeDefault" | "Unconfined" => {
            let why = "can only be set when AppArmor type is Localhost";
            errors.extend(
                local.map(|text| FieldError::invalid(&place, BadValue::Raw(Value::from(text).to_string()), why)),
            );
        }
        "" => {
            errors.push(FieldError::required(
                &path.child("type"),
                "type is required when appArmorProfile is set",
            ));
        }
        other => {
            let known = ["Localhost", "RuntimeDefault", "Unconfined"];
            errors.push(FieldError::not_supported(&path.child("type"), other, &known));
        }
    }
    errors
}

/// Faults of the pod's context.
pub fn pod(spec: &Value, path: &Path, options: super::Options) -> FieldErrors {
    let context = spec.at("/securityContext");
    if context.is_null() {
        return Vec::new();
    }
    let mut errors = ids(context, &["fsGroup", "runAsUser", "runAsGroup"], path);
    for (i, id) in context.items("/supplementalGroups").iter().enumerate() {
        let id = id.as_i64().unwrap_or_default();
        let place = path.child("supplementalGroups").index(i);
        errors.extend(
            name::unix_id(id)
                .into_iter()
                .map(|m| FieldError::invalid(&place, id, m)),
        );
    }
    if spec.flag("/shareProcessNamespace") && spec.flag("/hostPID") {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&path.child("shareProcessNamespace"), true, why));
    }
    errors.extend(sysctls(spec, &path.child("sysctls"), options.lenient));
    let one_of = |key: &str, known: &[&str]| {
        let text = context.get(key).and_then(Value::as_str).filter(|t| !known.contains(t));
        text.map(|t| FieldError::not_supported(&path.child(key), t, known))
    };
    errors.extend(one_of("fsGroupChangePolicy", &["Always", "OnRootMismatch"]));
    errors.extend(seccomp(context.at("/seccompProfile"), &path.child("seccompProfile")));
    errors.extend(windows(context.at("/windowsOptions"), &path.child("windowsOptions")));
    errors.extend(app_armor(
        context.at("/appArmorProfile"),
        &path.child("appArmorProfile"),
    ));
    errors.extend(one_of("supplementalGroupsPolicy", &["Merge", "Strict"]));
    // `MountOption` waits for a feature gate that is off in v1.36.
    let labelling: &[&str] = if options.labelled {
        &["MountOption", "Recursive"]
    } else {
        &["Recursive"]
    };
    errors.extend(one_of("seLinuxChangePolicy", labelling));
    errors
}

fn sysctls(spec: &Value, path: &Path, lenient: bool) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, sysctl) in spec.items("/securityContext/sysctls").iter().enumerate() {
        let (own, place) = (sysctl.text("/name"), path.index(i).child("name"));
        if own.is_empty() {
            errors.push(FieldError::required(&place, ""));
        } else if !is_sysctl(own) {
            let why = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(FieldError::invalid(&place, own, why));
        } else if seen.contains(own) {
            errors.push(FieldError::duplicate(&place, own));
        }
        seen.insert(own);
        if lenient {
            continue;
        }
        let dotted = own.replace('/', ".");
        if spec.flag("/hostNetwork") && dotted.starts_with("net.") {
            errors.push(FieldError::invalid(
                &place,
                own,
                "may not be specified when 'hostNetwork' is true",
            ));
        } else if spec.flag("/hostIPC")
            && (["kernel.shm", "kernel.msg", "fs.mqueue."]
                .iter()
                .any(|p| dotted.starts_with(p))
                || dotted == "kernel.sem")
        {
            errors.push(FieldError::invalid(
                &place,
                own,
                "may not be specified when 'hostIPC' is true",
            ));
        }
    }
    errors
}

fn is_sysctl(text: &str) -> bool {
    let alnum = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |part: &str| {
        let b = part.as_bytes();
        b.first().is_some_and(alnum)
            && b.last().is_some_and(alnum)
            && b.iter().all(|c| alnum(c) || matches!(c, b'-' | b'_'))
    };
    text.len() <= 253 && text.split(['.', '/']).all(segment)
}

fn windows(options: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(own) = options.at("/gmsaCredentialSpecName").as_str() {
        let place = path.child("gmsaCredentialSpecName");
        let found = name::dns1123_subdomain(own).into_iter();
        errors.extend(found.map(|m| FieldError::invalid(&place, BadValue::typed(own), m)));
    }
    if let Some(spec) = options.at("/gmsaCredentialSpec").as_str() {
        let place = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.push(FieldError::invalid(
                &place,
                spec,
                "gmsaCredentialSpec cannot be an empty string",
            ));
        } else if spec.len() > CREDENTIAL_SPEC_MAX {
            errors.push(FieldError::invalid(
                &place,
                spec,
                "gmsaCredentialSpec size must be under 64 KiB",
            ));
        }
    }
    if let Some(own) = options.at("/runAsUserName").as_str() {
        let place = path.child("runAsUserName");
        let faults = user_name(own).into_iter().map(str::to_string).collect();
        errors.extend(invalid(&place, own, faults));
    }
    errors
}

fn user_name(text: &str) -> Vec<&'static str> {
    if text.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if text.chars().any(char::is_control) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let parts: Vec<&str> = text.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["runAsUserName cannot contain more than one backslash"],
    };
    let mut faults = Vec::new();
    if domain.is_some_and(|d| d.len() >= 256) {
        faults.push("runAsUserName's Domain length must be under 256 characters");
    }
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let net_bios = |d: &str| {
        (1..=15).contains(&d.chars().count())
            && !d.starts_with('.')
            && !d.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
    };
    if domain.is_some_and(|d| !net_bios(d) && !d.split('.').all(label)) {
        faults.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        faults.push("runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        faults.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        faults.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains([
        '"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']',
    ]) {
        faults.push(r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#);
    }
    faults
}

/// Faults of Windows' host process containers: all of a pod or none.
pub fn host_process(spec: &Value, path: &Path) -> FieldErrors {
    let of = |v: &Value| v.at("/securityContext/windowsOptions/hostProcess").as_bool();
    let pod = of(spec);
    let mut errors = Vec::new();
    let list = all(spec, path);
    let mut count = 0;
    for (container, at) in &list {
        let own = of(container);
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let place = at.child("securityContext").child("windowsOptions").child("hostProcess");
            let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.push(FieldError::invalid(&place, own, why));
        }
        count += usize::from(own.or(pod).unwrap_or(false));
    }
    if count > 0 {
        if count != list.len() {
            let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
            errors.push(FieldError::invalid(path, "", why));
        }
        if !spec.flag("/hostNetwork") {
            let why = "hostNetwork must be true if pod contains any hostProcess containers";
            errors.push(FieldError::invalid(&path.child("hostNetwork"), false, why));
        }
    }
    errors
}

/// Faults of fields that make no sense on the pod's operating system.
pub fn operating_system(spec: &Value, path: &Path) -> FieldErrors {
    let os = spec.text("/os/name");
    let place = path.child("os");
    match os {
        "" => return vec![FieldError::required(&place.child("name"), "")],
        "linux" | "windows" => {}
        _ => return vec![FieldError::not_supported(&place, os, &["linux", "windows"])],
    }
    let mut errors = Vec::new();
    let set = |v: &Value, key: &str| match v.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    let mut check = |holder: &Value, keys: &[&str], at: &Path, why: &str| {
        errors.extend(
            keys.iter()
                .filter(|k| set(holder, k))
                .map(|k| FieldError::forbidden(&at.child(k), why)),
        );
    };
    let context = spec.at("/securityContext");
    let at = path.child("securityContext");
    if os == "linux" {
        let why = "windows options cannot be set for a linux pod";
        check(context, &["windowsOptions"], &at, why);
        for (container, at) in all(spec, path) {
            check(
                container.at("/securityContext"),
                &["windowsOptions"],
                &at.child("securityContext"),
                why,
            );
        }
        return errors;
    }
    let why = "cannot be set for a windows pod";
    check(context, &["appArmorProfile", "seLinuxOptions"], &at, why);
    if spec.has("/hostUsers") {
        check(&serde_json::json!({"hostUsers": 1}), &["hostUsers"], path, why);
    }
    check(spec, &["hostPID", "hostIPC"], path, why);
    check(
        context,
        &["seccompProfile", "fsGroup", "fsGroupChangePolicy", "sysctls"],
        &at,
        why,
    );
    if spec.has("/shareProcessNamespace") {
        check(
            &serde_json::json!({"shareProcessNamespace": 1}),
            &["shareProcessNamespace"],
            path,
            why,
        );
    }
    let rest = [
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ];
    check(context, &rest, &at, why);
    for (container, at) in all(spec, path) {
        let keys = [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "capabilities",
            "readOnlyRootFilesystem",
            "privileged",
            "allowPrivilegeEscalation",
            "procMount",
            "runAsUser",
            "runAsGroup",
        ];
        let context = container.at("/securityContext");
        let present = keys.iter().filter(|k| context.get(**k).is_some_and(|v| !v.is_null()));
        for key in present {
            check(
                &serde_json::json!({ *key: 1 }),
                &[key],
                &at.child("securityContext"),
                why,
            );
        }
    }
    errors
}
