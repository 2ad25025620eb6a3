//! Label selectors against labels.

use std::collections::BTreeMap;

use steersman_types::LabelSelector;

/// Labels of an object, as far as it has any.
pub type Labels = BTreeMap<String, String>;

/// Whether `selector` selects `labels`: an absent one nothing, an empty one everything; an operator that does not exist
/// nothing.
#[must_use]
pub fn selects(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    let Some(selector) = selector else { return false };
    let get = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = get(&requirement.key);
            let listed = |value: &String| requirement.values.iter().flatten().any(|v| v == value);
            match requirement.operator.as_str() {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether the selector says anything.
#[must_use]
pub fn is_empty(selector: Option<&LabelSelector>) -> bool {
    selector.is_none_or(|s| {
        s.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && s.match_expressions.as_ref().is_none_or(Vec::is_empty)
    })
}

/// `selector` with the values that `labels` has for `keys` required as well.
#[must_use]
pub fn with_own(
    selector: Option<&LabelSelector>,
    keys: Option<&Vec<String>>,
    labels: Option<&Labels>,
) -> Option<LabelSelector> {
    let mut selector = selector.cloned();
    for key in keys.into_iter().flatten() {
        if let Some(value) = labels.and_then(|l| l.get(key)) {
            let matching = selector.get_or_insert_default().match_labels.get_or_insert_default();
            matching.insert(key.clone(), value.clone());
        }
    }
    selector
}
