//! ServiceAccounts: identities for pods.

use crate::table::{self, AGE, NAME};
use crate::view::{View, each_mut};
use crate::{Column, Context, Kind, Table, meta, nothing};
use jiff::Timestamp;
use serde_json::{Value, json};

const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    default: nothing::default,
    prepare_create: |account, _| keep_only_names(account),
    prepare_update: |account, _, _: &Context| keep_only_names(account),
    validate: nothing::validate,
    validate_update: nothing::validate_update,
    warnings,
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
    example: "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: robot, namespace: default}\n",
};

/// References to secrets keep nothing but the name.
fn keep_only_names(account: &mut Value) {
    for secret in each_mut(account, "/secrets") {
        *secret = match secret.text("/name") {
            "" => json!({}),
            name => json!({ "name": name }),
        };
    }
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let has = |a: &Value| {
        a.entries("/metadata/annotations")
            .is_some_and(|m| m.contains_key(ENFORCE))
    };
    if !has(new) || old.is_some_and(has) {
        return Vec::new();
    }
    vec![format!(
        "metadata.annotations[{ENFORCE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
    )]
}

const COLUMNS: &[Column] = &[NAME, AGE];

fn row(account: &Value, now: &Timestamp) -> Vec<Value> {
    vec![account.text("/metadata/name").into(), table::age(account, now)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_references_keep_only_the_name() {
        let mut account = json!({"secrets": [{"name": "a", "kind": "Secret", "uid": "1"}]});
        keep_only_names(&mut account);
        assert_eq!(account, json!({"secrets": [{"name": "a"}]}));
    }
}
