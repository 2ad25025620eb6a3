//! Pod templates compared and named. Pure.
//!
//! Users: every controller that tells one template from the next (Deployment, DaemonSet, StatefulSet). What stays true:
//! two templates that mean the same to the server compare equal, however absent fields are written down.

use serde_json::Value;
use steersman_types::api::core::v1::{PodTemplate, PodTemplateSpec};
use steersman_types::{ObjectMeta, Typed};

/// Removes what means the same as its absence: null, empty lists, empty maps of strings.
pub fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(strip);
            map.retain(|key, value| match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(inner) => {
                    let of_strings = matches!(
                        key.as_str(),
                        "labels" | "annotations" | "nodeSelector" | "limits" | "requests" | "metadata"
                    );
                    !(of_strings && inner.is_empty())
                }
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The template as JSON.
#[must_use]
pub fn to_value(template: &PodTemplateSpec) -> Value {
    let object = PodTemplate {
        metadata: ObjectMeta::default(),
        template: Some(template.clone()),
    };
    object.to_value()["template"].take()
}

/// A template from JSON; `None` when it has another shape.
#[must_use]
pub fn from_value(template: &Value) -> Option<PodTemplateSpec> {
    let object = serde_json::json!({"apiVersion": "v1", "kind": "PodTemplate", "template": template});
    PodTemplate::from_value(&object).ok()?.template
}

/// A name for the template: FNV-1a over its canonical JSON and the collision count, in letters and digits that form no
/// words. Upstream hashes a dump of Go structures instead, so the same template has another name there; templates are
/// recognised by their content, never by this.
#[must_use]
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut value = to_value(template);
    strip(&mut value);
    let mut hash: u32 = 2_166_136_261;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(16_777_619);
        }
    };
    feed(value.to_string().as_bytes());
    if let Some(collisions) = collisions {
        feed(&collisions.to_le_bytes());
    }
    safe(&hash.to_string())
}

/// As upstream's SafeEncodeString: each byte picks one of 27 consonants and digits.
#[must_use]
pub fn safe(text: &str) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes()
        .map(|b| char::from(LETTERS[usize::from(b) % LETTERS.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_a_number_gives_upstream_s_letters() {
        // '0' is 48: 48 % 27 = 21, "4" … as in upstream's names like web-5d7c9f7f9d.
        assert_eq!(safe("0123456789"), "456789bcdf");
    }

    #[test]
    fn a_collision_changes_the_hash() {
        let template = PodTemplateSpec::default();
        assert_ne!(hash(&template, None), hash(&template, Some(1)));
        assert_eq!(hash(&template, Some(1)), hash(&template, Some(1)));
    }

    #[test]
    fn a_template_survives_the_way_to_json_and_back() {
        let json = serde_json::json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}});
        let template = from_value(&json).unwrap();
        assert_eq!(from_value(&to_value(&template)).unwrap(), template);
    }
}
