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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lister::Fixed;
    use crate::token::jws::Unverified;

    fn issuer() -> Issuer {
        Issuer {
            issuer: "https://kubernetes.default.svc".into(),
            key: SigningKey::generate().expect("randomness"),
            api_audiences: vec!["api".into()],
            max_seconds: None,
            extend: true,
        }
    }

    fn account() -> Value {
        json!({"metadata": {"namespace": "ns", "name": "builder", "uid": "sa-uid"}})
    }

    fn cluster() -> Fixed {
        let mut objects = Fixed::default();
        for (name, account, node) in [
            ("p", "builder", "n1"),
            ("lost", "builder", "gone"),
            ("other", "else", "n1"),
        ] {
            objects.put(
                "",
                "pods",
                json!({"metadata": {"namespace": "ns", "name": name, "uid": format!("{name}-uid")},
                       "spec": {"serviceAccountName": account, "nodeName": node}}),
            );
        }
        objects.put("", "nodes", json!({"metadata": {"name": "n1", "uid": "node-uid"}}));
        objects.put(
            "",
            "secrets",
            json!({"metadata": {"namespace": "ns", "name": "s", "uid": "secret-uid"}}),
        );
        objects
    }

    fn now() -> Timestamp {
        "2027-01-01T00:00:00.5Z".parse().expect("time")
    }

    /// The claims of the token and the answer, or the refusal's text.
    fn ask(issuer: &Issuer, request: Value) -> Result<(Value, Minted), String> {
        let prepared = issuer
            .prepare(request, "ns", "builder", &account(), now())
            .map_err(|s| s.to_string())?;
        let minted = issuer
            .mint(prepared, &account(), &cluster(), now(), "id")
            .map_err(|s| s.to_string())?;
        let token = text(&minted.object, "/status/token").to_owned();
        let token = Unverified::parse(&token).ok_or("no token")?;
        assert!(token.verified_by(&issuer.key.public));
        Ok((token.claims, minted))
    }

    fn bound(kind: &str, name: &str) -> Value {
        json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}}})
    }

    #[test]
    fn a_plain_request_gets_an_hour_for_the_api() {
        let (claims, minted) = ask(&issuer(), json!({})).expect("minted");
        let start = now().as_second();
        assert_eq!(
            claims,
            json!({"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:ns:builder", "aud": ["api"],
                   "iat": start, "nbf": start, "exp": start + 3600, "jti": "id",
                   "kubernetes.io": {"namespace": "ns", "serviceaccount": {"name": "builder", "uid": "sa-uid"}}})
        );
        assert_eq!(minted.object["status"]["expirationTimestamp"], "2027-01-01T01:00:00Z");
        assert_eq!(minted.object["metadata"]["creationTimestamp"], "2027-01-01T00:00:00Z");
        assert_eq!((minted.credential_id.as_str(), minted.warnings.len()), ("JTI=id", 0));
    }

    #[test]
    fn a_token_names_what_it_is_bound_to() {
        for (kind, name, want) in [
            (
                "Pod",
                "p",
                json!({"pod": {"name": "p", "uid": "p-uid"}, "node": {"name": "n1", "uid": "node-uid"}}),
            ),
            (
                "Pod",
                "lost",
                json!({"pod": {"name": "lost", "uid": "lost-uid"}, "node": {"name": "gone"}}),
            ),
            ("Secret", "s", json!({"secret": {"name": "s", "uid": "secret-uid"}})),
            ("Node", "n1", json!({"node": {"name": "n1", "uid": "node-uid"}})),
        ] {
            let (claims, _) = ask(&issuer(), bound(kind, name)).expect("minted");
            for part in ["pod", "secret", "node"] {
                assert_eq!(claims["kubernetes.io"].get(part), want.get(part), "{kind} {name}");
            }
        }
    }

    #[test]
    fn only_a_pods_own_api_token_lives_a_year_and_warns() {
        let start = now().as_second();
        let ask_for = |spec: Value| {
            let (claims, minted) = ask(&issuer(), json!({"spec": spec})).expect("minted");
            let warn = claims["kubernetes.io"]["warnafter"].as_i64().map(|at| at - start);
            (
                claims["exp"].as_i64().map(|at| at - start),
                warn,
                minted.object["status"]["expirationTimestamp"].clone(),
            )
        };
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": "p"});
        let shown = json!("2027-01-01T01:00:07Z");
        assert_eq!(
            ask_for(json!({"expirationSeconds": 3607, "boundObjectRef": pod})),
            (Some(EXTENDED_SECONDS), Some(3607), shown.clone())
        );
        for spec in [
            json!({"expirationSeconds": 3607}),
            json!({"expirationSeconds": 3607, "boundObjectRef": pod, "audiences": ["vault"]}),
        ] {
            assert_eq!(ask_for(spec), (Some(3607), None, shown.clone()));
        }
        let short = Issuer {
            max_seconds: Some(1000),
            ..issuer()
        };
        let (claims, minted) = ask(&short, json!({"spec": {"expirationSeconds": 5000}})).expect("minted");
        assert_eq!(claims["exp"], start + 1000);
        assert_eq!(
            minted.warnings,
            ["requested expiration of 5000 seconds shortened to 1000 seconds"]
        );
    }

    #[test]
    fn refusals_have_upstreams_texts() {
        let expiry = "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value:";
        let uid = |request: Value, uid: &str| {
            let mut request = request;
            request["spec"]["boundObjectRef"]["uid"] = uid.into();
            request
        };
        for (request, want) in [
            (json!({"spec": {"expirationSeconds": 599}}), format!("{expiry} 599: may not specify a duration less than 10 minutes")),
            (
                json!({"spec": {"expirationSeconds": (1i64 << 32) + 1}}),
                format!("{expiry} 4294967297: may not specify a duration larger than 2^32 seconds"),
            ),
            (
                json!({"metadata": {"name": "x"}}),
                "TokenRequest.authentication.k8s.io \"builder\" is invalid: metadata.name: Invalid value: \"x\": must match \
                 the service account name if specified"
                    .into(),
            ),
            (
                json!({"metadata": {"uid": "x"}}),
                "Operation cannot be fulfilled on TokenRequest.authentication.k8s.io \"builder\": the UID in the token \
                 request (x) does not match the UID of the service account (sa-uid)"
                    .into(),
            ),
            (bound("Pod", "none"), "pods \"none\" not found".into()),
            (
                bound("Pod", "other"),
                "cannot bind token for serviceaccount \"builder\" to pod running with different serviceaccount name.".into(),
            ),
            (bound("ConfigMap", "c"), "cannot bind token to object of type /v1, Kind=ConfigMap".into()),
            (
                uid(bound("Pod", "p"), "old"),
                "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference (old) does not match \
                 the UID in record. The object might have been deleted and then recreated"
                    .into(),
            ),
        ] {
            assert_eq!(ask(&issuer(), request).map(|_| ()), Err(want));
        }
        assert!(ask(&issuer(), json!([])).is_err());
    }
}
