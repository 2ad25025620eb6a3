//! What upstream says when a value in a strategic merge patch is of another type than its field: it turns maps into Go
//! structs there without JSON in between, in words of its own and with other leniency (a whole float is an integer, too
//! large an integer wraps round).

use serde_json::Value;

use crate::codec::canonical_base64;
use crate::facts::{Shape, Ty, Type};

/// Makes numbers what their fields hold. Types with a JSON form of their own (times, quantities, …) are left to decoding.
///
/// # Errors
/// With upstream's text for the first value, in order of declaration, that does not fit.
pub(super) fn fit(object: &mut Value, ty: &Type) -> Result<(), String> {
    if !object.is_object() {
        return Err(format!("cannot restore struct from: {}", kind(object)));
    }
    if ty.kind {
        for key in ["kind", "apiVersion"] {
            object.get(key).map_or(Ok(()), |value| text(value, "string"))?;
        }
    }
    for field in &ty.fields {
        if let (true, Shape::Struct(inner)) = (field.inline, &field.ty.shape) {
            fit(object, inner)?;
        } else if let Some(value) = object.get_mut(field.json) {
            fit_value(value, field.ty)?;
        }
    }
    Ok(())
}

fn fit_value(value: &mut Value, ty: &Ty) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    match (&ty.shape, &mut *value) {
        (Shape::String, value) => text(value, &ty.go),
        (Shape::Bool, Value::Bool(_)) | (Shape::Float64, Value::Number(_)) => Ok(()),
        (Shape::Bytes, Value::String(text)) => match canonical_base64(text.clone()) {
            Ok(_) => Ok(()),
            Err(why) => Err(format!("error decoding from json: {why}")),
        },
        (Shape::Bool, _) => Err("unrecognized type: bool".into()),
        (Shape::Float64, _) => Err("unrecognized type: float64".into()),
        (Shape::Int32 | Shape::Int64, Value::Number(number)) => {
            let whole = number
                .as_i64()
                .or_else(|| number.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as i64));
            let whole = whole.ok_or_else(|| format!("cannot convert float64 to {}", ty.go))?;
            *value = match ty.shape {
                Shape::Int32 => Value::from(whole as i32),
                _ => Value::from(whole),
            };
            Ok(())
        }
        (Shape::Int32, _) => Err("unrecognized type: int32".into()),
        (Shape::Int64, _) => Err("unrecognized type: int64".into()),
        (Shape::Struct(inner), value) => fit(value, inner),
        (Shape::List(inner) | Shape::Wrapped(inner), Value::Array(items)) => {
            items.iter_mut().try_for_each(|item| fit_value(item, inner))
        }
        (Shape::Map(inner), Value::Object(map)) => map.values_mut().try_for_each(|item| fit_value(item, inner)),
        (Shape::List(_) | Shape::Wrapped(_) | Shape::Bytes, value) => {
            Err(format!("cannot restore slice from {}", kind(value)))
        }
        (Shape::Map(_), value) => Err(format!("cannot restore map from {}", kind(value))),
        _ => Ok(()),
    }
}

fn text(value: &Value, go: &str) -> Result<(), String> {
    match value {
        Value::String(_) | Value::Null => Ok(()),
        Value::Number(n) if n.is_i64() => Err(format!("cannot convert int64 to {go}")),
        _ => Err("unrecognized type: string".into()),
    }
}

/// Go's kind of a value in an untyped map.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(spec: Value) -> Result<Value, String> {
        let ty = crate::facts::facts().kind("apps", "v1", "Deployment").unwrap();
        let mut object = json!({ "spec": spec });
        fit(&mut object, ty).map(|()| object["spec"].take())
    }

    #[test]
    fn what_does_not_fit_is_refused_in_upstreams_words() {
        for (spec, expected) in [
            (json!(1), "cannot restore struct from: int64"),
            (json!({"replicas": "3"}), "unrecognized type: int32"),
            (json!({"replicas": 1.5}), "cannot convert float64 to int32"),
            (json!({"paused": "yes"}), "unrecognized type: bool"),
            (
                json!({"strategy": {"type": 1}}),
                "cannot convert int64 to v1.DeploymentStrategyType",
            ),
            (
                json!({"template": {"spec": {"containers": {}}}}),
                "cannot restore slice from map",
            ),
            (
                json!({"template": {"spec": {"nodeSelector": []}}}),
                "cannot restore map from slice",
            ),
            (
                json!({"template": {"spec": {"nodeSelector": {"a": true}}}}),
                "unrecognized type: string",
            ),
        ] {
            assert_eq!(deployment(spec), Err(expected.to_owned()));
        }
    }

    #[test]
    fn bytes_are_base64() {
        let ty = crate::facts::facts().kind("", "v1", "ConfigMap").unwrap();
        let why = "error decoding from json: illegal base64 data at input byte 0".to_owned();
        assert_eq!(fit(&mut json!({"binaryData": {"a": "%"}}), ty), Err(why));
    }

    #[test]
    fn numbers_become_what_their_fields_hold() {
        assert_eq!(deployment(json!({"replicas": 3.0})), Ok(json!({"replicas": 3})));
        assert_eq!(
            deployment(json!({"replicas": 3_000_000_000_i64})),
            Ok(json!({"replicas": -1_294_967_296}))
        );
    }
}
