//! Lists of resources with quantities.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use steersman_schema::quantity::Quantity;

/// By the resource's name.
pub type Amounts = BTreeMap<String, Quantity>;

/// A resource list of an object; entries that are no quantities are left out (validation refuses them).
#[must_use]
pub fn of(list: Option<&Value>) -> Amounts {
    let entries = list.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(name, value)| Some((name.clone(), Quantity::parse(value.as_str()?).ok()?)))
        .collect()
}

/// As it stands in an object.
#[must_use]
pub fn to_value(amounts: &Amounts) -> Value {
    let entries = amounts.iter().map(|(name, q)| (name.clone(), q.to_string().into()));
    Value::Object(entries.collect::<Map<_, _>>())
}

pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, quantity) in more {
        let sum = total.get(name).map_or(*quantity, |have| have.plus(quantity));
        total.insert(name.clone(), sum);
    }
}

/// Each amount at least as much as in `other`.
pub fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        if total.get(name).is_none_or(|have| quantity > have) {
            total.insert(name.clone(), *quantity);
        }
    }
}

/// What `new` has more than `old`, never below zero.
#[must_use]
pub fn increase(new: &Amounts, old: &Amounts) -> Amounts {
    let mut out = new.clone();
    for (name, quantity) in &mut out {
        let less = old.get(name).map_or(*quantity, |had| quantity.minus(had));
        *quantity = less.max(Quantity::ZERO);
    }
    out
}

/// `a=1,b=2Gi`.
#[must_use]
pub fn shown(amounts: &Amounts) -> String {
    let texts: Vec<String> = amounts.iter().map(|(name, q)| format!("{name}={q}")).collect();
    texts.join(",")
}
