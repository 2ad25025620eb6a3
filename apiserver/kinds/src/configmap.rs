//! ConfigMaps: text under `data`, bytes under `binaryData`, together at most 1 MiB; optionally sealed.

use crate::table::{self, AGE, NAME, column};
use crate::view::View;
use crate::{Column, Kind, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

/// All values of a ConfigMap or Secret together, in bytes.
pub const DATA_MAX: usize = 1024 * 1024;
pub(crate) const SEALED: &str = "field is immutable when `immutable` is set";

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    default: nothing::default,
    prepare_create: nothing::prepare_create,
    prepare_update: nothing::prepare_update,
    validate,
    validate_update,
    warnings: nothing::warnings,
    validate_name: meta::name_subdomain,
    status: None,
    updates: &[],
    generation: false,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: default}\ndata: {colour: blue}\n",
};

/// Length of base64 text once decoded.
pub(crate) fn decoded_len(text: &str) -> usize {
    let body = text.trim_end_matches('=');
    body.len() * 3 / 4
}

fn validate(map: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let mut size = 0;
    let binary = map.entries("/binaryData");
    for (key, value) in map.entries("/data").into_iter().flatten() {
        let path = Path::new("data").key(key);
        errors.extend(
            name::config_map_key(key)
                .into_iter()
                .map(|m| FieldError::invalid(&path, key, m)),
        );
        if binary.is_some_and(|b| b.contains_key(key)) {
            errors.push(FieldError::invalid(
                &path,
                key,
                "duplicate of key present in binaryData",
            ));
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary.into_iter().flatten() {
        let path = Path::new("binaryData").key(key);
        errors.extend(
            name::config_map_key(key)
                .into_iter()
                .map(|m| FieldError::invalid(&path, key, m)),
        );
        size += value.as_str().map_or(0, decoded_len);
    }
    if size > DATA_MAX {
        // The whole object is meant: upstream's path of one empty name, which reads like this.
        errors.push(FieldError::too_long(&Path::new("[]"), DATA_MAX));
    }
    errors
}

fn validate_update(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = sealed(new, old, &["data", "binaryData"]);
    errors.extend(validate(new));
    errors
}

/// What may not change once `immutable` is true.
pub(crate) fn sealed(new: &Value, old: &Value, keys: &[&str]) -> FieldErrors {
    let mut errors = Vec::new();
    if old.flag("/immutable") {
        if !new.flag("/immutable") {
            errors.push(FieldError::forbidden(&Path::new("immutable"), SEALED));
        }
        for key in keys {
            let pointer = format!("/{key}");
            if !crate::view::same(new.at(&pointer), old.at(&pointer)) {
                errors.push(FieldError::forbidden(&Path::new(key), SEALED));
            }
        }
    }
    errors
}

const COLUMNS: &[Column] = &[
    NAME,
    column(
        "Data",
        "string",
        0,
        "How many entries the object holds, text and bytes together.",
    ),
    AGE,
];

fn row(map: &Value, now: &Timestamp) -> Vec<Value> {
    let count = |p| map.entries(p).map_or(0, serde_json::Map::len);
    vec![
        map.text("/metadata/name").into(),
        (count("/data") + count("/binaryData")).into(),
        table::age(map, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_file_names_and_unique() {
        let map = json!({"data": {"..": "x", "b": ""}, "binaryData": {"b": ""}});
        let texts: Vec<String> = validate(&map).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "data[..]: Invalid value: \"..\": must not be '..'",
                "data[b]: Invalid value: \"b\": duplicate of key present in binaryData"
            ]
        );
    }

    #[test]
    fn a_sealed_map_stays_sealed() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let new = json!({"data": {"a": "2"}});
        let texts: Vec<String> = validate_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }

    #[test]
    fn a_megabyte_is_the_limit() {
        let map = json!({"data": {"a": "x".repeat(DATA_MAX + 1)}});
        assert_eq!(
            validate(&map)[0].to_string(),
            "[]: Too long: may not be more than 1048576 bytes"
        );
    }
}
