//! What a namespace's labels say about pod security. Pure.

use std::fmt;

use serde_json::Value;
use steersman_auth::lister::text;
use steersman_schema::field::{FieldError, FieldErrors, Path};

/// From what is allowed to everybody to what is allowed to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level as one minor version of Kubernetes defined it; `None` is the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standard {
    pub level: Level,
    pub minor: Option<u32>,
}

/// What happens to pods that break which standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// Refused.
    pub enforce: Standard,
    /// Noted in the audit log.
    pub audit: Standard,
    /// Warned about.
    pub warn: Standard,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            None => write!(f, "{level}:latest"),
            Some(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

impl Policy {
    const DEFAULT: Self = {
        let open = Standard {
            level: Level::Privileged,
            minor: None,
        };
        Self {
            enforce: open,
            audit: open,
            warn: open,
        }
    };

    /// The policy of a namespace, and what is wrong with its labels. A faulty label enforces the strictest and neither
    /// audits nor warns.
    pub fn of(namespace: &Value) -> (Self, FieldErrors) {
        let mut policy = Self::DEFAULT;
        let mut faults = FieldErrors::new();
        let path = Path::new("metadata").child("labels");
        let mut label = |name: &str| {
            let key = format!("pod-security.kubernetes.io/{name}");
            let labels = namespace.pointer("/metadata/labels")?;
            let value = labels.get(&key)?.as_str()?.to_owned();
            let fault = match name.strip_suffix("-version") {
                Some(_) => version(&value).err(),
                None => level(&value).err(),
            };
            if let Some(why) = fault {
                faults.push(FieldError::invalid(&path.key(&key), value.as_str(), why));
            }
            Some(value)
        };
        let enforce = label("enforce");
        let enforce_version = label("enforce-version");
        let (audit, audit_version) = (label("audit"), label("audit-version"));
        let (warn, warn_version) = (label("warn"), label("warn-version"));
        let read = |standard: &mut Standard, given: &Option<String>, named: &Option<String>, otherwise: Level| {
            if let Some(given) = given {
                standard.level = level(given).unwrap_or(otherwise);
            }
            if let Some(named) = named {
                standard.minor = version(named).unwrap_or(None);
            }
        };
        read(&mut policy.enforce, &enforce, &enforce_version, Level::Restricted);
        read(&mut policy.audit, &audit, &audit_version, Level::Privileged);
        read(&mut policy.warn, &warn, &warn_version, Level::Privileged);
        // Who enforces something is warned about it as well, where only templates are written.
        let valid = enforce.as_deref().is_some_and(|given| level(given).is_ok());
        if warn.is_none() && valid && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if warn_version.is_none() {
                policy.warn.minor = policy.enforce.minor;
            }
        }
        (policy, faults)
    }

    pub fn allows_everything(&self) -> bool {
        [self.enforce, self.audit, self.warn]
            .iter()
            .all(|s| s.level == Level::Privileged)
    }
}

fn level(text: &str) -> Result<Level, &'static str> {
    match text {
        "privileged" => Ok(Level::Privileged),
        "baseline" => Ok(Level::Baseline),
        "restricted" => Ok(Level::Restricted),
        _ => Err("must be one of privileged, baseline, restricted"),
    }
}

fn version(text: &str) -> Result<Option<u32>, &'static str> {
    const WHY: &str = "must be \"latest\" or \"v1.x\"";
    if text == "latest" {
        return Ok(None);
    }
    let minor = text.strip_prefix("v1.").ok_or(WHY)?;
    let plain = minor == "0" || !minor.starts_with('0');
    let digits = !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit());
    if !plain || !digits {
        return Err(WHY);
    }
    minor.parse().map(Some).map_err(|_| WHY)
}

/// The pod template in an object of a kind that has one: metadata and specification.
pub(super) fn template(group: &str, plural: &str, object: &Value) -> Option<Value> {
    let pointer = match (group, plural) {
        ("", "pods") => "",
        ("", "podtemplates") => "/template",
        ("", "replicationcontrollers")
        | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets")
        | ("batch", "jobs") => "/spec/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    object.pointer(pointer).filter(|t| t.get("spec").is_some()).cloned()
}

/// Whether an update of a pod can make a difference: another image, or more containers.
pub(super) fn is_significant(new: &Value, old: &Value) -> bool {
    let list = |pod: &Value, list: &str| -> Vec<(String, String)> {
        let containers = steersman_auth::lister::items(pod, &format!("/spec/{list}"));
        let pairs = containers
            .iter()
            .map(|c| (text(c, "/name").to_owned(), text(c, "/image").to_owned()));
        pairs.collect()
    };
    let fixed = ["containers", "initContainers"].iter().any(|l| {
        let images = |pod| list(pod, l).into_iter().map(|(_, image)| image).collect::<Vec<_>>();
        images(new) != images(old)
    });
    let before = list(old, "ephemeralContainers");
    fixed || list(new, "ephemeralContainers").iter().any(|c| !before.contains(c))
}
