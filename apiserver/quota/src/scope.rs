//! Scopes: which objects a quota is about.

use serde_json::Value;

use crate::{items, text};

/// One requirement of a quota's `scopes` or `scopeSelector`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub name: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`.
    pub operator: String,
    pub values: Vec<String>,
}

impl Scope {
    /// Whether the operator accepts this value (`None`: there is none).
    #[must_use]
    pub fn selects(&self, value: Option<&str>) -> bool {
        let listed = value.is_some_and(|v| self.values.iter().any(|w| w == v));
        match self.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// Everything that a quota requires of an object; all of it must hold.
#[must_use]
pub fn scopes(quota: &Value) -> Vec<Scope> {
    let plain = items(quota, "/spec/scopes")
        .iter()
        .filter_map(Value::as_str)
        .map(|name| Scope {
            name: name.to_owned(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
    let selected = items(quota, "/spec/scopeSelector/matchExpressions")
        .iter()
        .map(|e| Scope {
            name: text(e, "/scopeName").to_owned(),
            operator: text(e, "/operator").to_owned(),
            values: items(e, "/values")
                .iter()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect(),
        });
    plain.chain(selected).collect()
}
