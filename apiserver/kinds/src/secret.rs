//! Secrets: typed bags of bytes. `stringData` is folded into `data` on the way in and never shown.

use crate::configmap::{DATA_MAX, decoded_len, sealed};
use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, put_back, remove, set, set_if_empty};
use crate::{Column, Context, Kind, Table, meta, nothing};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use steersman_schema::codec::check_json;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};
use steersman_schema::name;
use x509_parser::pem::Pem;

const SERVICE_ACCOUNT: &str = "kubernetes.io/service-account.name";

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    default,
    prepare_create: nothing::prepare_create,
    prepare_update,
    validate,
    validate_update,
    warnings: |secret, _| warnings(secret),
    validate_name: meta::name_subdomain,
    status: None,
    updates: &[],
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[("type", |s| s.text("/type").to_string())],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: v1\nkind: Secret\nmetadata: {name: password, namespace: default}\nstringData: {word: swordfish}\n",
};

fn default(secret: &mut Value) {
    set_if_empty(secret, "type", "Opaque");
    let Some(Value::Object(texts)) = secret.get("stringData").cloned() else {
        return;
    };
    remove(secret, "stringData");
    if let Some(data) = child(secret, "data") {
        for (key, value) in texts {
            set(data, &key, base64(value.as_str().unwrap_or_default().as_bytes()));
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn unbase64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

fn prepare_update(new: &mut Value, old: &Value, _: &Context) {
    if new.text("/type").is_empty() {
        put_back(new, old, "type");
    }
}

fn validate(secret: &Value) -> FieldErrors {
    let data_path = Path::new("data");
    let mut errors = Vec::new();
    let empty = serde_json::Map::new();
    let data = secret.entries("/data").unwrap_or(&empty);
    let mut size = 0;
    for (key, value) in data {
        let found = name::config_map_key(key);
        errors.extend(
            found
                .into_iter()
                .map(|m| FieldError::invalid(&data_path.key(key), key, m)),
        );
        size += value.as_str().map_or(0, decoded_len);
    }
    if size > DATA_MAX {
        errors.push(FieldError::too_long(&data_path, DATA_MAX));
    }
    let missing = |key: &str| FieldError::required(&data_path.key(key), "");
    let mut need_json = |key: &str| match data.get(key).and_then(Value::as_str) {
        None => errors.push(missing(key)),
        Some(text) => {
            if let Err(why) = json_object(&unbase64(text)) {
                errors.push(FieldError::invalid(
                    &data_path.key(key),
                    "<secret contents redacted>",
                    why,
                ));
            }
        }
    };
    match secret.text("/type") {
        "kubernetes.io/service-account-token" => {
            let annotations = secret.entries("/metadata/annotations");
            let named = annotations.and_then(|a| a.get(SERVICE_ACCOUNT)).and_then(Value::as_str);
            if named.is_none_or(str::is_empty) {
                let path = Path::new("metadata").child("annotations").key(SERVICE_ACCOUNT);
                errors.push(FieldError::required(&path, ""));
            }
        }
        "kubernetes.io/dockercfg" => need_json(".dockercfg"),
        "kubernetes.io/dockerconfigjson" => need_json(".dockerconfigjson"),
        "kubernetes.io/basic-auth" => {
            if !data.contains_key("username") && !data.contains_key("password") {
                errors.extend([missing("username"), missing("password")]);
            }
        }
        "kubernetes.io/ssh-auth" => {
            if data
                .get("ssh-privatekey")
                .and_then(Value::as_str)
                .is_none_or(str::is_empty)
            {
                errors.push(missing("ssh-privatekey"));
            }
        }
        "kubernetes.io/tls" => {
            errors.extend(
                ["tls.crt", "tls.key"]
                    .iter()
                    .filter(|k| !data.contains_key(**k))
                    .map(|k| missing(k)),
            );
        }
        _ => {}
    }
    errors
}

/// The fault of bytes that are not a JSON object, in Go's words.
fn json_object(bytes: &[u8]) -> Result<(), String> {
    check_json(bytes)?;
    let kind = match serde_json::from_slice(bytes) {
        Ok(Value::Array(_)) => "array",
        Ok(Value::String(_)) => "string",
        Ok(Value::Number(_)) => "number",
        Ok(Value::Bool(_)) => "bool",
        _ => return Ok(()),
    };
    Err(format!(
        "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
    ))
}

/// What upstream's `tls.X509KeyPair` says of data that is not even PEM. It also parses both and compares them.
fn warnings(secret: &Value) -> Vec<String> {
    if secret.text("/type") != "kubernetes.io/tls" {
        return Vec::new();
    }
    let part = |key: &str| unbase64(secret.at("/data").get(key).and_then(Value::as_str).unwrap_or_default());
    let fault = certificate_fault(&labels(&part("tls.crt"))).or_else(|| key_fault(&labels(&part("tls.key"))));
    fault.map(|f| format!("tls: {f}")).into_iter().collect()
}

/// The types of the PEM blocks of a text.
fn labels(text: &[u8]) -> Vec<String> {
    Pem::iter_from_buffer(text)
        .map_while(Result::ok)
        .map(|block| block.label)
        .collect()
}

fn certificate_fault(found: &[String]) -> Option<String> {
    match found {
        _ if found.iter().any(|l| l == "CERTIFICATE") => None,
        [] => Some("failed to find any PEM data in certificate input".into()),
        [one] if one.ends_with("PRIVATE KEY") => Some(
            "failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".into(),
        ),
        _ => Some(format!(
            "failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]",
            found.join(" ")
        )),
    }
}

fn key_fault(found: &[String]) -> Option<String> {
    match found {
        _ if found.iter().any(|l| l == "PRIVATE KEY" || l.ends_with(" PRIVATE KEY")) => None,
        [] => Some("failed to find any PEM data in key input".into()),
        [one] if one == "CERTIFICATE" => {
            Some("found a certificate rather than a key in the PEM for the private key".into())
        }
        _ => Some(format!(
            "failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
            found.join(" ")
        )),
    }
}

fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    if new.text("/type") != old.text("/type") {
        errors.push(FieldError::invalid(
            &Path::new("type"),
            BadValue::typed(new.text("/type")),
            "field is immutable",
        ));
    }
    errors.extend(sealed(new, old, &["data"]));
    errors.extend(validate(new));
    errors
}

const COLUMNS: &[Column] = &[
    NAME,
    column(
        "Type",
        "string",
        0,
        "What the data is for; it decides which keys are required.",
    ),
    column("Data", "string", 0, "How many entries the object holds."),
    AGE,
];

fn row(secret: &Value, now: &Timestamp) -> Vec<Value> {
    vec![
        secret.text("/metadata/name").into(),
        secret.text("/type").into(),
        secret.entries("/data").map_or(0, serde_json::Map::len).into(),
        table::age(secret, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(secret: &Value) -> Vec<String> {
        validate(secret).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"stringData": {"a": "swordfish"}, "data": {"a": "eA=="}});
        default(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "c3dvcmRmaXNo"}}));
    }

    #[test]
    fn each_type_demands_its_keys() {
        for (kind, want) in [
            (
                "kubernetes.io/tls",
                vec!["data[tls.crt]: Required value", "data[tls.key]: Required value"],
            ),
            (
                "kubernetes.io/basic-auth",
                vec!["data[username]: Required value", "data[password]: Required value"],
            ),
            ("kubernetes.io/ssh-auth", vec!["data[ssh-privatekey]: Required value"]),
            ("kubernetes.io/dockercfg", vec!["data[.dockercfg]: Required value"]),
            (
                "kubernetes.io/service-account-token",
                vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
            ("Opaque", vec![]),
        ] {
            assert_eq!(texts(&json!({"type": kind})), want, "{kind}");
        }
    }

    #[test]
    fn the_type_never_changes() {
        let errors = validate_update(&json!({"type": "a"}), &json!({"type": "b"}));
        assert_eq!(errors[0].to_string(), "type: Invalid value: \"a\": field is immutable");
    }
}
