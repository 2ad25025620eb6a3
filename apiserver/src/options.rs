//! The options of each verb, read from the query string (and for deletes from the body), with upstream's checks.

use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::selector::{FieldSelector, LabelSelector};
use steersman_schema::status::Status;

use crate::query::Query;
use crate::resources::Resource;

const META: &str = "meta.k8s.io";
/// Upstream's `FieldManagerMaxLength`.
const MAX_MANAGER: usize = 128;

/// `metav1.ListOptions`.
#[derive(Debug)]
pub struct ListOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    pub bookmarks: bool,
    /// As given: empty, `0`, or a number.
    pub resource_version: String,
    pub version_match: VersionMatch,
    pub timeout_seconds: Option<u64>,
    /// 0: no limit.
    pub limit: usize,
    pub continue_token: String,
    pub send_initial_events: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    Unset,
    Exact,
    NotOlderThan,
}

/// What happens with unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Create, update and patch options.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    /// Of an apply: others' fields are taken.
    pub force: bool,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub propagation: Option<Propagation>,
    /// As an object, for admission.
    pub value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

fn invalid(kind: &str, errors: FieldErrors) -> Result<(), Status> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(META, kind, "", &errors))
    }
}

impl ListOptions {
    /// Reads and checks the options of a list, watch or deletecollection.
    ///
    /// # Errors
    /// 400 for what cannot be read, 422 for combinations that make no sense.
    pub fn read(query: &Query, watch: bool, resource: &Resource) -> Result<Self, Status> {
        let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default()).map_err(|e| bad(&e.0))?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default()).map_err(|e| bad(&e.0))?;
        for term in fields.terms() {
            if !field_is_known(resource, &term.field) {
                return Err(Status::bad_request(unknown_field(resource, &term.field)));
            }
        }
        let timeout = query.integer("timeoutSeconds").map_err(|e| bad(&e))?;
        let limit = query.integer("limit").map_err(|e| bad(&e))?.unwrap_or(0);
        let resource_version = query.get("resourceVersion").unwrap_or_default().to_owned();
        let continue_token = query.get("continue").unwrap_or_default().to_owned();
        let given = query.get("resourceVersionMatch").unwrap_or_default();
        let send_initial_events = query.flag("sendInitialEvents");
        let mut errors = FieldErrors::new();
        let path = Path::new("resourceVersionMatch");
        if watch {
            if send_initial_events.is_some() && given != "NotOlderThan" {
                errors.push(FieldError::forbidden(
                    &path,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            if !given.is_empty() {
                if send_initial_events.is_none() {
                    errors.push(FieldError::forbidden(
                        &path,
                        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                    ));
                }
                if given != "NotOlderThan" {
                    errors.push(FieldError::not_supported(&path, given, &["NotOlderThan"]));
                }
                if !continue_token.is_empty() {
                    errors.push(FieldError::forbidden(
                        &path,
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
            }
        } else {
            if !given.is_empty() {
                if resource_version.is_empty() {
                    errors.push(FieldError::forbidden(
                        &path,
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    ));
                }
                if !continue_token.is_empty() {
                    errors.push(FieldError::forbidden(
                        &path,
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
                if given != "Exact" && given != "NotOlderThan" {
                    errors.push(FieldError::not_supported(&path, given, &["Exact", "NotOlderThan", ""]));
                }
                if given == "Exact" && resource_version == "0" {
                    errors.push(FieldError::forbidden(
                        &path,
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    ));
                }
            }
            if send_initial_events.is_some() {
                errors.push(FieldError::forbidden(
                    &Path::new("sendInitialEvents"),
                    "sendInitialEvents is forbidden for list",
                ));
            }
        }
        invalid("ListOptions", errors)?;
        Ok(Self {
            labels,
            fields,
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            resource_version,
            version_match: match given {
                "Exact" => VersionMatch::Exact,
                "NotOlderThan" => VersionMatch::NotOlderThan,
                _ => VersionMatch::Unset,
            },
            timeout_seconds: timeout.and_then(|t| u64::try_from(t).ok()).filter(|t| *t > 0),
            // Upstream hands a negative limit to etcd, which takes it for none.
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token,
            send_initial_events,
        })
    }

    /// No selector at all.
    pub fn selects_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

/// Reads a resourceVersion; empty and `0` are 0.
///
/// # Errors
/// 400 with upstream's text.
pub fn parse_version(text: &str) -> Result<i64, Status> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse::<u64>()
        .ok()
        .and_then(|n| i64::try_from(n).ok())
        .ok_or_else(|| {
            let why = if text.bytes().all(|b| b.is_ascii_digit()) {
                "value out of range"
            } else {
                "invalid syntax"
            };
            let detail = format!("strconv.ParseUint: parsing {text:?}: {why}");
            let error = FieldError::invalid(&Path::new("resourceVersion"), text, detail);
            Status::bad_request(format!("invalid resource version: {error}"))
        })
}

/// Whether a field can be selected on.
pub fn field_is_known(resource: &Resource, field: &str) -> bool {
    matches!(field, "metadata.name" | "metadata.namespace")
        || resource.kind.fields.iter().any(|(name, _)| *name == field)
        || (resource.is("", "pods") && field == "spec.host")
}

fn unknown_field(resource: &Resource, field: &str) -> String {
    if resource.kind.fields.is_empty() {
        format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {field}")
    }
}

impl WriteOptions {
    /// Reads the options of a write. `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    ///
    /// # Errors
    /// 422 for values that make no sense.
    pub fn read(query: &Query, kind: &str) -> Result<Self, Status> {
        Self::read_as(query, kind, false)
    }

    /// Reads the options of a PATCH of type apply.
    ///
    /// # Errors
    /// As [`Self::read`]; an applier needs a name.
    pub fn read_apply(query: &Query) -> Result<Self, Status> {
        Self::read_as(query, "PatchOptions", true)
    }

    fn read_as(query: &Query, kind: &str, apply: bool) -> Result<Self, Status> {
        let mut errors = FieldErrors::new();
        if kind == "PatchOptions" && !apply && query.get("force").is_some() {
            errors.push(FieldError::forbidden(
                &Path::new("force"),
                "may not be specified for non-apply patch",
            ));
        }
        let manager = query.get("fieldManager").unwrap_or_default();
        let path = Path::new("fieldManager");
        if apply && manager.is_empty() {
            errors.push(FieldError::required(&path, "is required for apply patch"));
        }
        if manager.len() > MAX_MANAGER {
            errors.push(FieldError::too_long(&path, MAX_MANAGER));
        }
        for (position, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
            let detail = format!("invalid character U+{:04X} (at position {position})", u32::from(c));
            errors.push(FieldError::invalid(&path, manager, detail));
        }
        let dry_run = dry_run(&query.all("dryRun").map(str::to_owned).collect::<Vec<_>>(), &mut errors);
        let given = query.get("fieldValidation").unwrap_or_default();
        let field_validation = match given {
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                let path = Path::new("fieldValidation");
                errors.push(FieldError::not_supported(
                    &path,
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        invalid(kind, errors)?;
        Ok(Self {
            dry_run,
            field_manager: manager.to_owned(),
            field_validation,
            force: apply && query.flag("force").unwrap_or(false),
        })
    }

    /// As an object, for admission.
    pub fn to_value(&self, kind: &str) -> Value {
        let mut out = serde_json::json!({"apiVersion": "meta.k8s.io/v1", "kind": kind});
        if self.dry_run {
            out["dryRun"] = serde_json::json!(["All"]);
        }
        if !self.field_manager.is_empty() {
            out["fieldManager"] = self.field_manager.as_str().into();
        }
        if self.force && kind == "PatchOptions" {
            out["force"] = true.into();
        }
        out
    }
}

fn dry_run(values: &[String], errors: &mut FieldErrors) -> bool {
    if values.iter().any(|value| value != "All") {
        let shown = serde_json::json!(values);
        errors.push(FieldError::not_supported(&Path::new("dryRun"), &shown, &["All"]));
    }
    !values.is_empty()
}

impl DeleteOptions {
    /// Reads the options of a delete from its decoded body, or from the query when there is none.
    ///
    /// # Errors
    /// 400 for what cannot be read, 422 for combinations that make no sense.
    pub fn read(body: Option<&Value>, query: &Query) -> Result<Self, Status> {
        let mut value = serde_json::json!({"apiVersion": "meta.k8s.io/v1", "kind": "DeleteOptions"});
        if let Some(body) = body {
            for key in [
                "dryRun",
                "gracePeriodSeconds",
                "preconditions",
                "orphanDependents",
                "propagationPolicy",
            ] {
                if let Some(given) = body.get(key).filter(|given| !given.is_null()) {
                    value[key] = given.clone();
                }
            }
        } else {
            let bad = |error: String| Status::bad_request(error);
            if let Some(seconds) = query.integer("gracePeriodSeconds").map_err(bad)? {
                value["gracePeriodSeconds"] = seconds.into();
            }
            if let Some(orphan) = query.flag("orphanDependents") {
                value["orphanDependents"] = orphan.into();
            }
            if let Some(policy) = query.get("propagationPolicy") {
                value["propagationPolicy"] = policy.into();
            }
            let dry: Vec<&str> = query.all("dryRun").collect();
            if !dry.is_empty() {
                value["dryRun"] = serde_json::json!(dry);
            }
        }
        let mut errors = FieldErrors::new();
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let orphan_dependents = value.get("orphanDependents").and_then(Value::as_bool);
        let policy = text("/propagationPolicy");
        let path = Path::new("propagationPolicy");
        if let (Some(_), Some(policy)) = (orphan_dependents, &policy) {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&path, policy.as_str(), detail));
        }
        let propagation = match policy.as_deref() {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                errors.push(FieldError::not_supported(
                    &path,
                    other,
                    &["Foreground", "Background", "Orphan", "nil"],
                ));
                None
            }
        };
        let dry: Vec<String> = value["dryRun"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let dry_run = dry_run(&dry, &mut errors);
        invalid("DeleteOptions", errors)?;
        Ok(Self {
            dry_run,
            // Negative values are treated as one second.
            grace_period_seconds: value
                .get("gracePeriodSeconds")
                .and_then(Value::as_i64)
                .map(|s| if s < 0 { 1 } else { s }),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            orphan_dependents,
            propagation,
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletes_options_may_come_from_either_place() {
        let query = DeleteOptions::read(
            None,
            &Query::parse("gracePeriodSeconds=-5&propagationPolicy=Foreground"),
        )
        .expect("valid");
        assert_eq!(
            (query.grace_period_seconds, query.propagation),
            (Some(1), Some(Propagation::Foreground))
        );
        let body = serde_json::json!({"preconditions": {"uid": "u"}, "dryRun": ["All"]});
        let options = DeleteOptions::read(Some(&body), &Query::parse("gracePeriodSeconds=5")).expect("valid");
        assert_eq!(
            (options.uid.as_deref(), options.dry_run, options.grace_period_seconds),
            (Some("u"), true, None)
        );
        let both = DeleteOptions::read(None, &Query::parse("orphanDependents=true&propagationPolicy=Orphan"));
        assert_eq!(both.expect_err("both").code, 422);
    }

    #[test]
    fn junk_in_write_options_is_invalid() {
        for query in ["dryRun=Some", "fieldValidation=Maybe", "fieldManager=%07"] {
            assert_eq!(
                WriteOptions::read(&Query::parse(query), "CreateOptions")
                    .expect_err(query)
                    .code,
                422,
                "{query}"
            );
        }
        assert!(
            WriteOptions::read(&Query::parse("dryRun=All&fieldManager=kubectl"), "CreateOptions")
                .expect("valid")
                .dry_run
        );
    }
}
