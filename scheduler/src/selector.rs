//! Label selectors against labels: what pods' constraints need besides [`steersman_runtime::labels`].

use std::collections::BTreeMap;

use steersman_runtime::labels;
use steersman_types::LabelSelector;

pub use steersman_runtime::labels::selects;

/// Labels of an object, as far as it has any.
pub type Labels = BTreeMap<String, String>;

/// Whether the selector says anything.
#[must_use]
pub fn is_empty(selector: Option<&LabelSelector>) -> bool {
    selector.is_none_or(labels::is_empty)
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
