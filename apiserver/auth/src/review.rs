//! The review APIs: questions about users and rights, answered by the same authorizer and authenticator as requests.
//!
//! Each function takes the decoded review and returns it with its status. Nothing is stored. The server authorizes the
//! creation of the review itself before (everybody may ask about themselves, few about others).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, quote};
use steersman_schema::selector::{FieldSelector, LabelSelector, Operator};
use steersman_schema::status::Status;

use crate::authn::{Authenticator, Unauthorized};
use crate::authz::{Attributes, Authorizer, Decision, Requirement, Rule, aggregate};
use crate::lister::{items, strings, text};
use crate::user::{User, UserInfo};

const GROUP: &str = "authorization.k8s.io";

/// SubjectAccessReview: may this user do this?
///
/// # Errors
/// Invalid, with every fault of the spec.
pub fn subject_access(review: Value, authorizer: &dyn Authorizer) -> Result<Value, Box<Status>> {
    refuse(faults(&review, true, &[], "must be empty"))?;
    Ok(answer(subject(&review), review, authorizer))
}

/// LocalSubjectAccessReview: the same, within one namespace (the URL's).
///
/// # Errors
/// Invalid, with every fault of the spec; BadRequest when the namespaces differ.
pub fn local_subject_access(review: Value, namespace: &str, authorizer: &dyn Authorizer) -> Result<Value, Box<Status>> {
    let mut errors = faults(&review, true, &["namespace"], "must be empty except for namespace");
    let own = text(&review, "/metadata/namespace");
    let attributes = review.pointer("/spec/resourceAttributes").filter(|v| v.is_object());
    let asked = attributes.map(|a| text(a, "/namespace"));
    if let Some(asked) = asked.filter(|asked| *asked != own) {
        let path = Path::new("spec.resourceAttributes.namespace");
        errors.push(FieldError::invalid(&path, asked, "must match metadata.namespace"));
    }
    if let Some(other) = review.pointer("/spec/nonResourceAttributes").filter(|v| v.is_object()) {
        let path = Path::new("spec.nonResourceAttributes");
        errors.push(FieldError::invalid(
            &path,
            shown_path(other),
            "disallowed on this kind of request",
        ));
    }
    refuse(errors)?;
    if namespace.is_empty() {
        return Err(Box::new(Status::bad_request("namespace is required on this type: ")));
    }
    if namespace != own {
        let why = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
        return Err(Box::new(Status::bad_request(why)));
    }
    Ok(answer(subject(&review), review, authorizer))
}

/// SelfSubjectAccessReview: may I do this?
///
/// # Errors
/// Invalid, with every fault of the spec.
pub fn self_subject_access(review: Value, user: &User, authorizer: &dyn Authorizer) -> Result<Value, Box<Status>> {
    refuse(faults(&review, false, &[], "must be empty"))?;
    Ok(answer(user.clone(), review, authorizer))
}

/// SelfSubjectRulesReview: what may I do in this namespace?
///
/// # Errors
/// BadRequest without a namespace.
pub fn self_subject_rules(review: &Value, user: &User, authorizer: &dyn Authorizer) -> Result<Value, Box<Status>> {
    let namespace = text(review, "/spec/namespace");
    if namespace.is_empty() {
        return Err(Box::new(Status::bad_request("no namespace on request")));
    }
    let held = authorizer.rules_for(user, namespace);
    let shown = |lists: &[(&str, &Vec<String>)]| {
        let filled = lists.iter().filter(|(name, list)| *name == "verbs" || !list.is_empty());
        Value::Object(filled.map(|(name, list)| ((*name).to_owned(), json!(list))).collect())
    };
    let resource = |r: &Rule| {
        let names = ("resourceNames", &r.resource_names);
        shown(&[
            ("verbs", &r.verbs),
            ("apiGroups", &r.groups),
            ("resources", &r.resources),
            names,
        ])
    };
    let path = |r: &Rule| shown(&[("verbs", &r.verbs), ("nonResourceURLs", &r.paths)]);
    let resources: Vec<Value> = held
        .rules
        .iter()
        .filter(|r| !r.resources.is_empty())
        .map(resource)
        .collect();
    let paths: Vec<Value> = held.rules.iter().filter(|r| !r.paths.is_empty()).map(path).collect();
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": held.incomplete});
    if let Some(error) = held.error {
        status["evaluationError"] = error.into();
    }
    Ok(json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "metadata": {}, "spec": {}, "status": status,
    }))
}

/// TokenReview: whose token is this? `stale` of the second part as in [`Unauthorized`]: the server waits for its cache and
/// asks again.
///
/// # Errors
/// BadRequest without a token.
pub fn token(mut review: Value, authenticator: &Authenticator, now: Timestamp) -> Result<(Value, bool), Box<Status>> {
    let token = text(&review, "/spec/token");
    if token.is_empty() {
        return Err(Box::new(Status::bad_request(
            "token is required for TokenReview in authentication",
        )));
    }
    let (status, stale) = match authenticator.token(token, &strings(&review, "/spec/audiences"), now) {
        Ok(found) => {
            let mut status = json!({"authenticated": true, "user": found.user.to_value()});
            if !found.audiences.is_empty() {
                status["audiences"] = json!(found.audiences);
            }
            (status, false)
        }
        Err(Unauthorized { why, stale }) => (json!({"user": {}, "error": why}), stale),
    };
    if let Some(review) = review.as_object_mut() {
        review.insert("status".into(), status);
    }
    Ok((review, stale))
}

/// SelfSubjectReview: who am I?
pub fn self_subject(user: &User, now: Timestamp) -> Value {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview",
        "metadata": {"creationTimestamp": now}, "status": {"userInfo": user.to_value()},
    })
}

/// Non-resource attributes as upstream prints them: a struct without JSON names.
fn shown_path(attributes: &Value) -> BadValue {
    let [path, verb] = ["/path", "/verb"].map(|field| quote(text(attributes, field)));
    BadValue::Raw(format!("{{\"Path\":{path},\"Verb\":{verb}}}"))
}

fn refuse(errors: FieldErrors) -> Result<(), Box<Status>> {
    // Upstream fills in the kind of an object that has lost it: the message starts with the group alone.
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Box::new(Status::invalid(GROUP, "", "", &errors)))
    }
}

fn faults(review: &Value, names_subject: bool, metadata: &[&str], must: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let part = |name: &str| review.pointer(&format!("/spec/{name}")).filter(|v| v.is_object());
    match (part("resourceAttributes"), part("nonResourceAttributes")) {
        (Some(_), Some(other)) => errors.push(FieldError::invalid(
            &spec.child("nonResourceAttributes"),
            shown_path(other),
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => errors.push(FieldError::invalid(
            &spec.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if names_subject && text(review, "/spec/user").is_empty() && items(review, "/spec/groups").is_empty() {
        let detail = "at least one of user or group must be specified";
        errors.push(FieldError::invalid(&spec.child("user"), "", detail));
    }
    for name in ["fieldSelector", "labelSelector"] {
        let Some(selector) = part("resourceAttributes")
            .and_then(|a| a.get(name))
            .filter(|s| s.is_object())
        else {
            continue;
        };
        let path = Path::new("spec.resourceAttributes").child(name);
        let (raw, requirements) = (text(selector, "/rawSelector"), items(selector, "/requirements"));
        if !raw.is_empty() && !requirements.is_empty() {
            let detail = "may not specified at the same time as requirements";
            errors.push(FieldError::invalid(&path.child("rawSelector"), raw, detail));
        }
        if raw.is_empty() && requirements.is_empty() {
            let detail = format!(
                "when {} is specified, requirements or rawSelector is required",
                path.as_str()
            );
            errors.push(FieldError::required(&path.child("requirements"), detail));
        }
    }
    let given = review.get("metadata").and_then(Value::as_object);
    let extra = |(key, value): &(&String, &Value)| {
        !value.is_null() && *key != "managedFields" && !metadata.contains(&key.as_str()) && **value != json!("")
    };
    if given.is_some_and(|m| m.iter().any(|entry| extra(&entry))) {
        let value = review.get("metadata").cloned().unwrap_or_default();
        errors.push(FieldError::invalid(&Path::new("metadata"), value, must));
    }
    errors
}

/// The user that a review asks about.
fn subject(review: &Value) -> User {
    let extra = review.pointer("/spec/extra").and_then(Value::as_object);
    let extra: BTreeMap<String, Vec<String>> = extra
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.clone(), strings(values, "")))
        .collect();
    Arc::new(UserInfo {
        name: text(review, "/spec/user").into(),
        uid: text(review, "/spec/uid").into(),
        groups: strings(review, "/spec/groups"),
        extra,
    })
}

fn answer(user: User, mut review: Value, authorizer: &dyn Authorizer) -> Value {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let (what, mut errors) = attributes(user, &spec);
    let outcome = authorizer.authorize(&what);
    errors.splice(0..0, outcome.error);
    let mut status = json!({"allowed": outcome.decision == Decision::Allow});
    if outcome.decision == Decision::Deny {
        status["denied"] = true.into();
    }
    if !outcome.reason.as_str().is_empty() {
        status["reason"] = outcome.reason.as_str().into();
    }
    if let Some(error) = aggregate(errors) {
        status["evaluationError"] = error.into();
    }
    if let Some(review) = review.as_object_mut() {
        review.insert("status".into(), status);
    }
    review
}

/// What is asked, and what of it could not be understood (and counts as not said, which asks for more, never for less).
fn attributes(user: User, spec: &Value) -> (Attributes, Vec<String>) {
    let Some(of) = spec.get("resourceAttributes").filter(|v| v.is_object()) else {
        let (verb, path) = ("/nonResourceAttributes/verb", "/nonResourceAttributes/path");
        let (verb, path) = (text(spec, verb).to_owned(), text(spec, path).to_owned());
        return (
            Attributes {
                user,
                verb,
                path,
                ..Attributes::default()
            },
            Vec::new(),
        );
    };
    let at = |field: &str| of.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut errors = Vec::new();
    let mut understood = |name: &str, (found, wrong): (Vec<Requirement>, bool)| {
        if wrong {
            let how = if found.is_empty() {
                "ignored"
            } else {
                "partially ignored"
            };
            errors.push(format!("spec.resourceAttributes.{name} {how} due to parse error"));
        }
        found
    };
    let field_selector = understood("fieldSelector", field_requirements(of.get("fieldSelector")));
    let label_selector = understood("labelSelector", label_requirements(of.get("labelSelector")));
    let version = at("version");
    let what = Attributes {
        user,
        verb: at("verb"),
        resource_request: true,
        group: at("group"),
        version: if version.is_empty() { "*".into() } else { version },
        resource: at("resource"),
        subresource: at("subresource"),
        namespace: at("namespace"),
        name: at("name"),
        path: String::new(),
        field_selector,
        label_selector,
    };
    (what, errors)
}

/// The requirements of a field selector as the authorizer sees them, and whether any was dropped.
fn field_requirements(selector: Option<&Value>) -> (Vec<Requirement>, bool) {
    let Some(selector) = selector.filter(|s| s.is_object()) else {
        return (Vec::new(), false);
    };
    let (mut found, mut wrong) = (Vec::new(), false);
    match FieldSelector::parse(text(selector, "/rawSelector")) {
        Ok(raw) => found.extend(raw.terms().iter().map(|term| Requirement {
            key: term.field.clone(),
            operator: if term.negated { "NotIn" } else { "In" },
            values: vec![term.value.clone()],
        })),
        Err(_) => wrong = true,
    }
    for requirement in items(selector, "/requirements") {
        let (key, values) = (text(requirement, "/key").to_owned(), strings(requirement, "/values"));
        let operator = match text(requirement, "/operator") {
            "In" => "In",
            "NotIn" => "NotIn",
            _ => "",
        };
        if operator.is_empty() || values.len() != 1 {
            wrong = true;
            continue;
        }
        found.push(Requirement { key, operator, values });
    }
    (found, wrong)
}

fn label_requirements(selector: Option<&Value>) -> (Vec<Requirement>, bool) {
    let Some(selector) = selector.filter(|s| s.is_object()) else {
        return (Vec::new(), false);
    };
    let (mut found, mut wrong) = (Vec::new(), false);
    match LabelSelector::parse(text(selector, "/rawSelector")) {
        Ok(raw) => {
            for requirement in raw.requirements() {
                let operator = match requirement.operator {
                    Operator::In | Operator::Equals => "In",
                    Operator::NotIn | Operator::NotEquals => "NotIn",
                    Operator::Exists => "Exists",
                    Operator::DoesNotExist => "DoesNotExist",
                    // Not sayable in the structured form: dropped, which asks for more.
                    Operator::GreaterThan | Operator::LessThan => continue,
                };
                let (key, values) = (requirement.key.clone(), requirement.values.clone());
                found.push(Requirement { key, operator, values });
            }
        }
        Err(_) => wrong = true,
    }
    for requirement in items(selector, "/requirements") {
        let (key, values) = (text(requirement, "/key").to_owned(), strings(requirement, "/values"));
        let operator = match (text(requirement, "/operator"), values.is_empty()) {
            ("In", false) => "In",
            ("NotIn", false) => "NotIn",
            ("Exists", true) => "Exists",
            ("DoesNotExist", true) => "DoesNotExist",
            _ => {
                wrong = true;
                continue;
            }
        };
        found.push(Requirement { key, operator, values });
    }
    (found, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::{Outcome, Reason, Rules};

    /// Allows alice to get pods, denies mallory, fails for eve.
    struct Fake;

    impl Authorizer for Fake {
        fn authorize(&self, what: &Attributes) -> Outcome {
            let asked = (
                what.user.name.as_str(),
                what.verb.as_str(),
                what.resource.as_str(),
                what.path.as_str(),
            );
            match asked {
                ("alice", "get", "pods", "") => Outcome::allow(Reason::Text("because".into())),
                ("alice", "get", "", "/metrics") => Outcome::allow(Reason::default()),
                ("mallory", ..) => Outcome {
                    decision: Decision::Deny,
                    ..Outcome::no_opinion("never")
                },
                ("eve", ..) => Outcome {
                    error: Some("trouble".into()),
                    ..Outcome::no_opinion("")
                },
                _ => Outcome::no_opinion(""),
            }
        }

        fn rules_for(&self, _: &User, _: &str) -> Rules {
            let words = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
            let pods = Rule {
                verbs: words(&["get"]),
                groups: words(&[""]),
                resources: words(&["pods"]),
                ..Rule::default()
            };
            let paths = Rule {
                verbs: words(&["get"]),
                paths: words(&["/x"]),
                ..Rule::default()
            };
            Rules {
                rules: vec![pods, paths],
                incomplete: true,
                error: Some("partly".into()),
            }
        }
    }

    fn ask(user: &str, attributes: Value) -> Value {
        json!({"kind": "SubjectAccessReview", "metadata": {"creationTimestamp": null},
               "spec": {"user": user, "resourceAttributes": attributes}})
    }

    #[test]
    fn answers_carry_decision_reason_and_trouble() {
        let pods = || json!({"verb": "get", "resource": "pods", "namespace": "ns"});
        for (user, want) in [
            ("alice", json!({"allowed": true, "reason": "because"})),
            ("bob", json!({"allowed": false})),
            ("mallory", json!({"allowed": false, "denied": true, "reason": "never"})),
            ("eve", json!({"allowed": false, "evaluationError": "trouble"})),
        ] {
            let got = subject_access(ask(user, pods()), &Fake)
                .map(|r| r["status"].clone())
                .map_err(|s| s.to_string());
            assert_eq!(got, Ok(want), "{user}");
        }
        let alice: User = Arc::new(UserInfo::named("alice"));
        let own = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
        let got = self_subject_access(own, &alice, &Fake)
            .map(|r| r["status"].clone())
            .map_err(|s| s.to_string());
        assert_eq!(got, Ok(json!({"allowed": true})));
        let mut odd = pods();
        odd["fieldSelector"] = json!({"requirements": [{"key": "a", "operator": "Near", "values": ["b"]}]});
        let got = subject_access(ask("alice", odd), &Fake)
            .map(|r| r["status"].clone())
            .map_err(|s| s.to_string());
        let error = "spec.resourceAttributes.fieldSelector ignored due to parse error";
        assert_eq!(
            got,
            Ok(json!({"allowed": true, "reason": "because", "evaluationError": error}))
        );
    }

    #[test]
    fn faults_are_listed_as_upstream_lists_them() {
        let refused = subject_access(json!({"metadata": {"name": "x"}, "spec": {}}), &Fake).expect_err("faults");
        let want = concat!(
            r#".authorization.k8s.io "" is invalid: [spec.resourceAttributes: Invalid value: null: exactly one of "#,
            "nonResourceAttributes or resourceAttributes must be specified, ",
            r#"spec.user: Invalid value: "": at least one of user or group must be specified, "#,
            r#"metadata: Invalid value: {"name":"x"}: must be empty]"#
        );
        assert_eq!(refused.to_string(), want);
        let mut local = ask(
            "alice",
            json!({"verb": "get", "resource": "pods", "namespace": "other"}),
        );
        local["metadata"]["namespace"] = "ns".into();
        let refused = local_subject_access(local.clone(), "ns", &Fake)
            .expect_err("namespaces differ")
            .to_string();
        assert!(
            refused.contains("spec.resourceAttributes.namespace: Invalid value: \"other\": must match"),
            "{refused}"
        );
        local["spec"]["resourceAttributes"]["namespace"] = "ns".into();
        assert!(local_subject_access(local.clone(), "ns", &Fake).is_ok());
        let refused = local_subject_access(local, "else", &Fake)
            .expect_err("another URL")
            .to_string();
        assert_eq!(refused, "spec.resourceAttributes.namespace must match namespace: else");
    }

    #[test]
    fn rules_and_self_are_shown_whole() {
        let alice: User = Arc::new(UserInfo {
            uid: "7".into(),
            ..UserInfo::named("alice")
        });
        let rules = self_subject_rules(&json!({"spec": {"namespace": "ns"}}), &alice, &Fake).expect("a namespace");
        assert_eq!(
            rules["status"],
            json!({"resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
                   "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}],
                   "incomplete": true, "evaluationError": "partly"})
        );
        assert!(self_subject_rules(&json!({"spec": {}}), &alice, &Fake).is_err());
        let me = self_subject(&alice, Timestamp::UNIX_EPOCH);
        assert_eq!(me["status"]["userInfo"], json!({"username": "alice", "uid": "7"}));
    }
}
