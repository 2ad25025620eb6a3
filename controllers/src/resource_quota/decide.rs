//! What a quota's status says. Pure.

use serde_json::Value;
use steersman_quota::amounts::{self, Amounts};
use steersman_quota::{Evaluator, count_name, evaluator, scopes};
use steersman_schema::quantity::Quantity;

/// A resource that counts against quotas.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Counted {
    pub group: String,
    pub plural: String,
}

impl Counted {
    #[must_use]
    pub fn new(group: &str, plural: &str) -> Self {
        Self {
            group: group.to_owned(),
            plural: plural.to_owned(),
        }
    }

    #[must_use]
    pub fn evaluator(&self) -> Evaluator {
        evaluator(&self.group, &self.plural)
    }
}

/// The resources whose objects must be counted for these limits.
#[must_use]
pub fn counted(hard: &Amounts) -> Vec<Counted> {
    let named = hard.keys().filter_map(|name| name.strip_prefix("count/")).map(|rest| {
        let (plural, group) = rest.split_once('.').unwrap_or((rest, ""));
        Counted::new(group, plural)
    });
    let legacy = steersman_quota::LEGACY.iter().map(|plural| Counted::new("", plural));
    let core = ["pods", "services", "persistentvolumeclaims"];
    let mut all: Vec<Counted> = core
        .iter()
        .map(|p| Counted::new("", p))
        .chain(legacy)
        .chain(named)
        .collect();
    all.sort();
    all.dedup();
    all.retain(|one| {
        let measure = one.evaluator();
        hard.keys().any(|name| measure.measures(name))
            // A name that is not exactly this resource's (`count/x.y` of no known group) finds nothing.
            && !steersman_quota::is_ignored(&one.group, &one.plural)
    });
    all
}

/// What `objects` of one resource use, as far as `quota` is about them; every resource that it limits is named.
#[must_use]
pub fn usage<'a>(
    quota: &Value,
    hard: &Amounts,
    resource: &Counted,
    objects: impl Iterator<Item = &'a Value>,
    now: jiff::Timestamp,
) -> Amounts {
    let measure = resource.evaluator();
    let scopes = scopes(quota);
    let names = hard.keys().filter(|name| measure.measures(name));
    let mut total: Amounts = names.map(|name| (name.clone(), Quantity::ZERO)).collect();
    for object in objects.filter(|o| scopes.iter().all(|scope| measure.covers(scope, o))) {
        let used = measure.usage(object, now);
        amounts::add(&mut total, &used);
    }
    total.retain(|name, _| hard.contains_key(name));
    total
}

/// The number of objects alone, for resources of which only the metadata is known.
#[must_use]
pub fn number(quota: &Value, hard: &Amounts, resource: &Counted, count: usize) -> Amounts {
    let nothing = Value::Null;
    let mut total = usage(
        quota,
        hard,
        resource,
        std::iter::repeat_n(&nothing, count),
        jiff::Timestamp::UNIX_EPOCH,
    );
    total.retain(|name, _| name == &count_name(&resource.group, &resource.plural) || name == &resource.plural);
    total
}

/// Whether less is counted of something than is charged.
#[must_use]
pub fn is_below(quota: &Value, counted: &Amounts) -> bool {
    let charged = amounts::of(quota.pointer("/status/used"));
    let below = |(name, count): (&String, &Quantity)| charged.get(name).is_some_and(|charge| count < charge);
    counted.iter().any(below)
}

/// What is counted, or charged where that is more.
#[must_use]
pub fn not_below(quota: &Value, mut counted: Amounts) -> Amounts {
    let charged = amounts::of(quota.pointer("/status/used"));
    for (name, count) in &mut counted {
        if let Some(charge) = charged.get(name).filter(|charge| *count < **charge) {
            *count = *charge;
        }
    }
    counted
}

/// The status with `counted` usage, if it differs from the one there is. What could not be counted stays as it was.
#[must_use]
pub fn status(quota: &Value, counted: &Amounts) -> Option<Value> {
    let list = |pointer: &str| amounts::of(quota.pointer(pointer));
    let hard = list("/spec/hard");
    let before = list("/status/used");
    let mut used = before.clone();
    used.extend(counted.iter().map(|(name, q)| (name.clone(), *q)));
    used.retain(|name, _| hard.contains_key(name));
    let known = quota.pointer("/status/hard").is_some() && quota.pointer("/status/used").is_some();
    if known && list("/status/hard") == hard && before == used {
        return None;
    }
    Some(serde_json::json!({"hard": amounts::to_value(&hard), "used": amounts::to_value(&used)}))
}
