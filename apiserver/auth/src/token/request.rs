//! TokenRequest: who may have a service account token, what it says, and how long it lives.
//!
//! Two steps, because validating admission stands between them: [`Issuer::prepare`] fills in and validates the request,
//! [`Issuer::mint`] looks at the object it is to be bound to and signs. Both are upstream's to the letter; neither
//! authorizes (`create serviceaccounts/token` and NodeRestriction have).

use jiff::Timestamp;
use serde_json::{Value, json};
use steersman_schema::field::{FieldError, Path};
use steersman_schema::status::Status;

use super::{EXTENDED_SECONDS, SigningKey, WARN_ONLY_SECONDS, jws};
use crate::lister::{Lister, strings, text};
use crate::user::SERVICE_ACCOUNT_PREFIX;

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

/// Mints tokens in the name of one issuer.
pub struct Issuer {
    /// The first `--service-account-issuer`.
    pub issuer: String,
    pub key: SigningKey,
    /// `--api-audiences`; the issuer unless given.
    pub api_audiences: Vec<String>,
    /// `--service-account-max-token-expiration`, seconds; `None` when not limited.
    pub max_seconds: Option<i64>,
    /// `--service-account-extend-token-expiration`, on unless switched off.
    pub extend: bool,
}

/// The object that a token dies with, as `(name, uid)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub pod: Option<(String, String)>,
    pub secret: Option<(String, String)>,
    pub node: Option<(String, String)>,
}

/// A signed token.
#[derive(Debug)]
pub struct Minted {
    /// The TokenRequest with its status.
    pub object: Value,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// `JTI=<id>`, for the audit log.
    pub credential_id: String,
}

impl Issuer {
    /// Fills in what the request leaves out, and checks it. `name` and `namespace` are the URL's, `account` is the
    /// service account found there.
    ///
    /// # Errors
    /// Conflict when the request names another account's uid, Invalid for every other fault.
    pub fn prepare(
        &self,
        mut request: Value,
        namespace: &str,
        name: &str,
        account: &Value,
        now: Timestamp,
    ) -> Result<Value, Box<Status>> {
        let metadata = Path::new("metadata");
        for (field, want, what) in [("name", name, "name"), ("namespace", namespace, "namespace")] {
            let given = text(&request, &format!("/metadata/{field}"));
            if !given.is_empty() && given != want {
                let detail = format!("must match the service account {what} if specified");
                let fault = FieldError::invalid(&metadata.child(field), given, detail);
                return Err(Box::new(Status::invalid(GROUP, KIND, name, &vec![fault])));
            }
        }
        let uid = text(account, "/metadata/uid");
        let given = text(&request, "/metadata/uid");
        if !given.is_empty() && given != uid {
            let why =
                format!("the UID in the token request ({given}) does not match the UID of the service account ({uid})");
            return Err(Box::new(Status::conflict(GROUP, KIND, name, &why)));
        }
        if !request.is_object() {
            return Err(Box::new(Status::bad_request("the body is not an object")));
        }
        for part in ["metadata", "spec"] {
            if !request[part].is_object() {
                request[part] = json!({});
            }
        }
        let meta = &mut request["metadata"];
        meta["name"] = name.into();
        meta["namespace"] = namespace.into();
        meta["uid"] = uid.into();
        meta["creationTimestamp"] = whole_seconds(now).into();
        request["status"] = json!({"token": "", "expirationTimestamp": null});
        let spec = &mut request["spec"];
        if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
            spec["audiences"] = json!(self.api_audiences);
        }
        if spec["expirationSeconds"].is_null() {
            spec["expirationSeconds"] = 3600.into();
        }
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or_default();
        let detail = match seconds {
            ..MIN_SECONDS => Some("may not specify a duration less than 10 minutes"),
            MIN_SECONDS..=MAX_SECONDS => None,
            _ => Some("may not specify a duration larger than 2^32 seconds"),
        };
        if let Some(detail) = detail {
            let fault = FieldError::invalid(&Path::new("spec").child("expirationSeconds"), seconds, detail);
            return Err(Box::new(Status::invalid(GROUP, KIND, "", &vec![fault])));
        }
        Ok(request)
    }

    /// Signs a prepared request. `jti` is a fresh UUID.
    ///
    /// # Errors
    /// When the object that the token is to be bound to does not exist, is another one, or does not fit.
    pub fn mint(
        &self,
        mut request: Value,
        account: &Value,
        objects: &dyn Lister,
        now: Timestamp,
        jti: &str,
    ) -> Result<Minted, Box<Status>> {
        let bound = bound_object(&request, account, objects)?;
        let mut warnings = Vec::new();
        let mut seconds = request
            .pointer("/spec/expirationSeconds")
            .and_then(Value::as_i64)
            .unwrap_or(3600);
        if let Some(most) = self.max_seconds.filter(|most| *most > 0 && seconds > *most) {
            warnings.push(format!(
                "requested expiration of {seconds} seconds shortened to {most} seconds"
            ));
            seconds = most;
            request["spec"]["expirationSeconds"] = most.into();
        }
        let audiences = strings(&request, "/spec/audiences");
        // A pod that was given a token which it did not ask for may not know that such tokens expire: for a transition
        // upstream gives it a year, and counts those who would have come too late.
        let for_api = audiences.iter().all(|a| self.api_audiences.contains(a));
        let extended = self.extend && bound.pod.is_some() && seconds == WARN_ONLY_SECONDS && for_api;
        let (lifetime, warn_after) = if extended {
            (EXTENDED_SECONDS, Some(seconds))
        } else {
            (seconds, None)
        };

        let claims = self.claims(account, &bound, &audiences, now, lifetime, warn_after, jti);
        let token = jws::sign(&self.key, &claims)
            .ok_or_else(|| Box::new(Status::internal("failed to generate token: no randomness")))?;
        let expires = Timestamp::from_second(now.as_second().saturating_add(seconds)).unwrap_or(Timestamp::MAX);
        request["status"] = json!({"token": token, "expirationTimestamp": whole_seconds(expires)});
        Ok(Minted {
            object: request,
            warnings,
            credential_id: format!("JTI={jti}"),
        })
    }

    #[allow(clippy::too_many_arguments, reason = "each is one claim")]
    fn claims(
        &self,
        account: &Value,
        bound: &Bound,
        audiences: &[String],
        now: Timestamp,
        lifetime: i64,
        warn_after: Option<i64>,
        jti: &str,
    ) -> Value {
        let (namespace, name) = (text(account, "/metadata/namespace"), text(account, "/metadata/name"));
        let now = now.as_second();
        let mut private = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": text(account, "/metadata/uid")},
        });
        for (key, reference) in [("pod", &bound.pod), ("secret", &bound.secret), ("node", &bound.node)] {
            let Some((name, uid)) = reference else { continue };
            private[key] = if uid.is_empty() {
                json!({"name": name})
            } else {
                json!({"name": name, "uid": uid})
            };
        }
        if let Some(seconds) = warn_after {
            private["warnafter"] = (now + seconds).into();
        }
        json!({
            "iss": self.issuer, "sub": format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"), "aud": audiences,
            "iat": now, "nbf": now, "exp": now.saturating_add(lifetime), "jti": jti, "kubernetes.io": private,
        })
    }
}

/// Finds and checks the object in `spec.boundObjectRef`.
fn bound_object(request: &Value, account: &Value, objects: &dyn Lister) -> Result<Bound, Box<Status>> {
    let mut bound = Bound::default();
    let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|r| r.is_object()) else {
        return Ok(bound);
    };
    let (version, kind) = (text(reference, "/apiVersion"), text(reference, "/kind"));
    let (name, uid) = (text(reference, "/name"), text(reference, "/uid"));
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let namespace = text(account, "/metadata/namespace");
    let find = |plural: &str, namespace: Option<&str>| {
        objects
            .get("", plural, namespace, name)
            .ok_or_else(|| Box::new(Status::not_found("", plural, name)))
    };
    let id = |object: &Value| Some((name.to_owned(), text(object, "/metadata/uid").to_owned()));
    let found = match (group, kind) {
        ("", "Pod") => {
            let pod = find("pods", Some(namespace))?;
            let account = text(account, "/metadata/name");
            if text(&pod, "/spec/serviceAccountName") != account {
                return Err(Box::new(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                ))));
            }
            bound.pod = id(&pod);
            let node = text(&pod, "/spec/nodeName");
            if !node.is_empty() {
                // A node that is gone is still named, without uid.
                let object = objects.get("", "nodes", None, node);
                let uid = object.map(|n| text(&n, "/metadata/uid").to_owned()).unwrap_or_default();
                bound.node = Some((node.to_owned(), uid));
            }
            pod
        }
        ("", "Node") => {
            let node = find("nodes", None)?;
            bound.node = id(&node);
            node
        }
        ("", "Secret") => {
            let secret = find("secrets", Some(namespace))?;
            bound.secret = id(&secret);
            secret
        }
        _ => {
            let shown = format!("{group}/{version}, Kind={kind}");
            return Err(Box::new(Status::bad_request(format!(
                "cannot bind token to object of type {shown}"
            ))));
        }
    };
    if !uid.is_empty() && text(&found, "/metadata/uid") != uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        return Err(Box::new(Status::conflict(group, kind, name, &why)));
    }
    Ok(bound)
}

/// RFC 3339 in UTC without fractions, as `metav1.Time` shows it.
fn whole_seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}
