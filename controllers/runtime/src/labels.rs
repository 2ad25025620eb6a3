//! Label selectors of API objects against labels.

use std::collections::BTreeMap;

use steersman_types::LabelSelector;

/// Whether `selector` selects `labels`; an absent selector selects nothing, an empty one everything.
/// An operator that does not exist selects nothing.
#[must_use]
pub fn selects(selector: Option<&LabelSelector>, labels: Option<&BTreeMap<String, String>>) -> bool {
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

/// Whether the selector says anything at all.
#[must_use]
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// A plain map as in Service and ReplicationController: all pairs must be there.
#[must_use]
pub fn all_of(selector: &BTreeMap<String, String>, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::LabelSelector;
    use steersman_types::meta::LabelSelectorRequirement;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        let requirement = LabelSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
        };
        LabelSelector {
            match_expressions: Some(vec![requirement]),
            ..LabelSelector::default()
        }
    }

    #[test]
    fn each_operator_does_what_it_says() {
        let app = labels(&[("app", "a")]);
        for (operator, values, expected) in [
            ("In", &["a", "b"][..], true),
            ("In", &["b"], false),
            ("NotIn", &["a"], false),
            ("NotIn", &["b"], true),
            ("Exists", &[], true),
            ("DoesNotExist", &[], false),
            ("Nonsense", &[], false),
        ] {
            assert_eq!(
                selects(Some(&expression("app", operator, values)), Some(&app)),
                expected,
                "{operator} {values:?}"
            );
        }
        assert!(selects(Some(&expression("other", "NotIn", &["a"])), Some(&app)));
    }

    #[test]
    fn no_selector_selects_nothing_and_an_empty_one_everything() {
        assert!(!selects(None, None));
        assert!(selects(Some(&LabelSelector::default()), None));
    }
}
