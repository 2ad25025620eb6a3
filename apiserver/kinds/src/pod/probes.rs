//! Probes and lifecycle hooks: what is run, asked or called, and when.

use crate::view::{View, invalid, non_negative};
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// Faults of the lifecycle hooks and the three probes of a container.
pub fn all(container: &Value, spec: &Value, path: &Path) -> FieldErrors {
    let grace = spec.at("/terminationGracePeriodSeconds").as_i64();
    let mut errors = Vec::new();
    let lifecycle = container.at("/lifecycle");
    let place = path.child("lifecycle");
    for key in ["postStart", "preStop"] {
        if let Some(hook) = lifecycle.get(key).filter(|v| !v.is_null()) {
            errors.extend(handler(
                hook,
                &["exec", "httpGet", "tcpSocket", "sleep"],
                grace,
                &place.child(key),
            ));
        }
    }
    if lifecycle.has("/stopSignal") {
        errors.extend(stop_signal(
            lifecycle.text("/stopSignal"),
            spec,
            &place.child("stopSignal"),
        ));
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get(key).filter(|v| !v.is_null()) {
            errors.extend(validate(probe, key, grace, &path.child(key)));
        }
    }
    errors
}

fn validate(probe: &Value, which: &str, grace: Option<i64>, path: &Path) -> FieldErrors {
    let mut errors = handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace, path);
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        let number = probe.get(key).and_then(Value::as_i64).unwrap_or_default();
        errors.extend(non_negative(&path.child(key), number));
    }
    let place = path.child("terminationGracePeriodSeconds");
    let own = probe.at("/terminationGracePeriodSeconds").as_i64();
    if let Some(seconds) = own.filter(|s| *s <= 0) {
        errors.push(FieldError::invalid(&place, seconds, "must be greater than 0"));
    }
    if which == "readinessProbe" {
        if let Some(seconds) = own {
            errors.push(FieldError::invalid(
                &place,
                seconds,
                "must not be set for readinessProbes",
            ));
        }
    } else if probe.int("/successThreshold") != 1 {
        let place = path.child("successThreshold");
        errors.push(FieldError::invalid(&place, probe.int("/successThreshold"), "must be 1"));
    }
    errors
}

fn handler(value: &Value, kinds: &[&str], grace: Option<i64>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut count = 0;
    for key in kinds {
        let Some(action) = value.get(*key).filter(|v| !v.is_null()) else {
            continue;
        };
        let place = path.child(key);
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(
                &place,
                "may not specify more than 1 handler type",
            ));
            continue;
        }
        match *key {
            "exec" if action.items("/command").is_empty() => {
                errors.push(FieldError::required(&place.child("command"), ""));
            }
            "httpGet" => errors.extend(http_get(action, &place)),
            "tcpSocket" | "grpc" => errors.extend(port(action.at("/port"), &place.child("port"))),
            "sleep" => {
                let seconds = action.int("/seconds");
                if let Some(grace) = grace.filter(|g| seconds < 0 || seconds > *g) {
                    let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.push(FieldError::invalid(&place, seconds, why));
                }
            }
            _ => {}
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    errors
}

fn http_get(action: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if action.text("/path").is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    errors.extend(port(action.at("/port"), &path.child("port")));
    let scheme = action.text("/scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(FieldError::not_supported(
            &path.child("scheme"),
            scheme,
            &["HTTP", "HTTPS"],
        ));
    }
    for header in action.items("/httpHeaders") {
        let own = header.text("/name");
        errors.extend(invalid(&path.child("httpHeaders"), own, name::http_header_name(own)));
    }
    errors
}

/// Faults of a port given by number or name.
pub fn port(value: &Value, path: &Path) -> FieldErrors {
    match value.as_str() {
        Some(own) => invalid(path, own, name::port_name(own)),
        None => {
            let number = value.as_i64().unwrap_or_default();
            name::port_number(number)
                .into_iter()
                .map(|m| FieldError::invalid(path, number, m))
                .collect()
        }
    }
}

fn stop_signal(signal: &str, spec: &Value, path: &Path) -> FieldErrors {
    let known: &[&str] = match spec.text("/os/name") {
        "" => {
            let why = "may not be set for containers with empty `spec.os.name`";
            return vec![FieldError::forbidden(path, why)];
        }
        "windows" => &["SIGKILL", "SIGTERM"],
        "linux" => SIGNALS,
        _ => return Vec::new(),
    };
    if known.contains(&signal) {
        Vec::new()
    } else {
        vec![FieldError::not_supported(path, signal, known)]
    }
}
