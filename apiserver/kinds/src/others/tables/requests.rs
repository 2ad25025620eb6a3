//! Tables of kinds that decide about requests: webhooks, admission policies, flow control.

use super::{own, text, text_or};
use crate::Column;
use crate::table::{AGE, NAME, age, column};
use crate::view::View;
use jiff::Timestamp;
use serde_json::Value;

pub(super) const WEBHOOKS: &[Column] = &[
    NAME,
    column(
        "Webhooks",
        "integer",
        0,
        "Webhooks indicates the number of webhooks registered in this configuration",
    ),
    AGE,
];

const PARAM_KIND: Column = column(
    "ParamKind",
    "string",
    0,
    "ParamKind specifies the kind of resources used to parameterize this policy",
);

pub(super) const VALIDATING: &[Column] = &[
    NAME,
    column(
        "Validations",
        "integer",
        0,
        "Validations indicates the number of validation rules defined in this configuration",
    ),
    PARAM_KIND,
    AGE,
];

pub(super) const MUTATING: &[Column] = &[
    NAME,
    column(
        "Mutations",
        "integer",
        0,
        "Mutations indicates the number of mutation rules defined in this configuration",
    ),
    PARAM_KIND,
    AGE,
];

pub(super) fn policy(policy: &Value, rules: &str, now: &Timestamp) -> Vec<Value> {
    let kind = match policy.at("/spec/paramKind") {
        Value::Null => "<unset>".to_string(),
        kind => format!("{}/{}", kind.text("/apiVersion"), kind.text("/kind")),
    };
    vec![
        own(policy),
        policy.items(rules).len().into(),
        kind.into(),
        age(policy, now),
    ]
}

pub(super) const BINDING: &[Column] = &[
    NAME,
    column(
        "PolicyName",
        "string",
        0,
        "PolicyName indicates the policy definition which the policy binding binded to",
    ),
    column(
        "ParamRef",
        "string",
        0,
        "ParamRef indicates the param resource which sets the configuration param",
    ),
    AGE,
];

pub(super) fn binding(binding: &Value, now: &Timestamp) -> Vec<Value> {
    let parameter = binding.at("/spec/paramRef");
    let shown = match (parameter.text("/namespace"), parameter.text("/name")) {
        ("", "") if parameter.has("/selector") => crate::selector::format(parameter.at("/selector")),
        (_, "") => "<unset>".to_string(),
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![
        own(binding),
        text(binding, "/spec/policyName"),
        shown.into(),
        age(binding, now),
    ]
}

pub(super) const FLOW_SCHEMA: &[Column] = &[
    NAME,
    column(
        "PriorityLevel",
        "string",
        0,
        "The priority level of requests that match.",
    ),
    column("MatchingPrecedence", "string", 0, "Lower numbers are tried first."),
    column("DistinguisherMethod", "string", 0, "How flows are told apart."),
    AGE,
    column(
        "MissingPL",
        "string",
        0,
        "references a broken or non-existent PriorityLevelConfiguration",
    ),
];

pub(super) fn flow_schema(schema: &Value, now: &Timestamp) -> Vec<Value> {
    let conditions = schema.items("/status/conditions");
    let dangling = conditions.iter().find(|c| c.text("/type") == "Dangling");
    vec![
        own(schema),
        text(schema, "/spec/priorityLevelConfiguration/name"),
        schema.int("/spec/matchingPrecedence").into(),
        text_or(schema, "/spec/distinguisherMethod/type", "<none>"),
        age(schema, now),
        dangling.map_or("?", |c| c.text("/status")).into(),
    ]
}

pub(super) const PRIORITY_LEVEL: &[Column] = &[
    NAME,
    column("Type", "string", 0, "Whether requests of this level are limited."),
    column(
        "NominalConcurrencyShares",
        "string",
        0,
        "The level's share of the server's seats.",
    ),
    column("Queues", "string", 0, "How many queues the level has."),
    column("HandSize", "string", 0, "How many queues a flow may choose from."),
    column(
        "QueueLengthLimit",
        "string",
        0,
        "How many requests may wait in one queue.",
    ),
    AGE,
];

pub(super) fn priority_level(level: &Value, now: &Timestamp) -> Vec<Value> {
    let number = |pointer: &str| match level.at(pointer) {
        Value::Null => "<none>".into(),
        number => number.clone(),
    };
    let queuing = "/spec/limited/limitResponse/queuing";
    vec![
        own(level),
        text(level, "/spec/type"),
        number("/spec/limited/nominalConcurrencyShares"),
        number(&format!("{queuing}/queues")),
        number(&format!("{queuing}/handSize")),
        number(&format!("{queuing}/queueLengthLimit")),
        age(level, now),
    ]
}
