//! Resource quantities as the numbers that the agent computes with: cores in thousandths, memory in bytes.
//!
//! Both round up and saturate, as upstream's `MilliValue` and `Value`. The API server has validated every quantity that
//! arrives here; text that is none all the same reads as zero.

use std::collections::BTreeMap;

use steersman_schema::quantity::Quantity as Parsed;
use steersman_types::Quantity;

/// A `limits` or `requests` map.
pub type Resources = BTreeMap<String, Quantity>;

/// Thousandths.
#[must_use]
pub fn milli(quantity: &Quantity) -> i64 {
    Parsed::parse(&quantity.0).map_or(0, |q| q.milli_value())
}

/// Whole units.
#[must_use]
pub fn value(quantity: &Quantity) -> i64 {
    Parsed::parse(&quantity.0).map_or(0, |q| q.value())
}

/// The named resource in thousandths, if it is there.
#[must_use]
pub fn milli_of(resources: Option<&Resources>, name: &str) -> Option<i64> {
    resources?.get(name).map(milli)
}

/// The named resource in whole units, if it is there.
#[must_use]
pub fn value_of(resources: Option<&Resources>, name: &str) -> Option<i64> {
    resources?.get(name).map(value)
}
