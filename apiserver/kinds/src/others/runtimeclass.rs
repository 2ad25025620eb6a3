//! RuntimeClasses: which handler of the container runtime runs a pod, what that costs, and where it can be done.

use super::rules::{IMMUTABLE, Rules, free_metadata, required};
use crate::pod::containers::{self, requirements};
use crate::pod::warnings::deprecated_node_label;
use crate::pod::{Options, scheduling};
use crate::view::View;
use crate::{meta, nothing, resources};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, go_json};
use steersman_schema::name;

pub static RULES: Rules = Rules {
    validate,
    validate_update: |new, old| {
        let mut errors = validate(new);
        let (after, before) = (new.text("/handler"), old.text("/handler"));
        if after != before {
            errors.push(FieldError::invalid(&Path::new("handler"), after, IMMUTABLE));
        }
        errors
    },
    warnings: |class, _| {
        let selector = class.entries("/scheduling/nodeSelector").into_iter().flatten();
        let path = Path::new("scheduling").child("nodeSelector");
        selector
            .filter_map(|(key, _)| deprecated_node_label(key).map(|why| format!("{}: {why}", path.key(key))))
            .collect()
    },
    validate_name: meta::name_subdomain,
    prepare_status: free_metadata,
    validate_status: nothing::validate_update,
};

fn validate(class: &Value) -> FieldErrors {
    let mut errors = required(class.text("/handler"), &Path::new("handler"), name::dns1123_label);
    if class.has("/overhead") {
        let none = BTreeSet::new();
        let rules = containers::Rules {
            name: resources::validate_container_name,
            claims: &none,
            options: Options {
                pod: false,
                lenient: false,
                labelled: false,
            },
        };
        let limits = json!({ "limits": class.at("/overhead/podFixed") });
        errors.extend(requirements(&limits, &rules, &Path::new("overhead")));
    }
    let path = Path::new("scheduling");
    let scheduling = class.at("/scheduling");
    if scheduling.has("/nodeSelector") {
        let place = path.child("nodeSelector");
        errors.extend(scheduling::node_labels(scheduling.at("/nodeSelector"), &place));
    }
    let path = path.child("tolerations");
    let tolerations = scheduling.items("/tolerations");
    errors.extend(scheduling::tolerations(tolerations, &path));
    let key = |t: &Value| ["/key", "/operator", "/value", "/effect"].map(|p| t.text(p).to_string());
    let mut seen = BTreeSet::new();
    for (i, toleration) in tolerations.iter().enumerate() {
        if !seen.insert(key(toleration)) {
            errors.push(FieldError::duplicate(&path.index(i), shown(toleration)));
        }
    }
    errors
}

/// A toleration as upstream's internal struct.
fn shown(toleration: &Value) -> BadValue {
    let text = |p: &str| go_json(&Value::from(toleration.text(p)));
    BadValue::Raw(format!(
        "{{\"Key\":{},\"Operator\":{},\"Value\":{},\"Effect\":{},\"TolerationSeconds\":{}}}",
        text("/key"),
        text("/operator"),
        text("/value"),
        text("/effect"),
        toleration.at("/tolerationSeconds")
    ))
}
