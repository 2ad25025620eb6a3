//! Objects of any type of the table, made from a seed: valid, sometimes sparse, sometimes zero.

use serde_json::{Map, Value, json};

use crate::facts::{Field, Shape, Ty, Type, facts};

/// A small generator (splitmix64): the same seed gives the same object everywhere.
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Kinds that protobuf has as well: all of them except Table.
pub(super) fn kinds() -> Vec<&'static Type> {
    fn whole(ty: &Type) -> bool {
        ty.fields.iter().all(|f| f.number != 0)
    }
    facts().types().iter().filter(|t| t.kind && whole(t)).collect()
}

/// An object of a kind, as a client could send it.
pub(super) fn object(ty: &'static Type, random: &mut Random) -> Value {
    let mut object = fields(ty, random, 0);
    object.insert("apiVersion".into(), ty.gvk().unwrap().api_version().into());
    object.insert("kind".into(), ty.short.into());
    Value::Object(object)
}

fn fields(ty: &'static Type, random: &mut Random, depth: usize) -> Map<String, Value> {
    let mut object = Map::new();
    for field in ty.flat_fields() {
        // Deep down, only a little: schemas contain themselves.
        let present = if depth > 6 {
            random.one_in(12)
        } else {
            !random.one_in(3)
        };
        if present && depth < 24 {
            object.insert(field.json.into(), value(field, field.ty, random, depth));
        }
    }
    object
}

fn text(random: &mut Random) -> String {
    const PIECES: [&str; 10] = [
        "",
        "a",
        "nginx",
        "<&>",
        "\"\\\n\u{1}",
        "é",
        "\u{2028}",
        "😀",
        "x-y.z/w",
        " ",
    ];
    (0..random.below(4))
        .map(|_| PIECES[random.below(PIECES.len())])
        .collect()
}

fn value(field: &Field, ty: &'static Ty, random: &mut Random, depth: usize) -> Value {
    match &ty.shape {
        Shape::String => text(random).into(),
        Shape::Bool => random.one_in(2).into(),
        Shape::Int32 => [
            json!(0),
            json!(1),
            json!(-1),
            json!(i32::MAX),
            json!(i32::MIN),
            json!(443),
        ][random.below(6)]
        .clone(),
        Shape::Int64 => [json!(0), json!(7), json!(-1), json!(i64::MAX), json!(i64::MIN)][random.below(5)].clone(),
        Shape::Float64 => [json!(0), json!(1.5), json!(-2), json!(1e300)][random.below(4)].clone(),
        Shape::Bytes => ["", "AA==", "c2VjcmV0", "////"][random.below(4)].into(),
        Shape::Time => [
            "2020-01-02T03:04:05Z",
            "1969-12-31T23:59:59Z",
            "2024-02-29T12:00:00+05:30",
            "0001-01-01T00:00:00Z",
        ][random.below(4)]
        .into(),
        Shape::MicroTime => ["2020-01-02T03:04:05.123456Z", "2020-01-02T03:04:05,000001+01:00"][random.below(2)].into(),
        Shape::Duration => ["1h2m3.5s", "0s", "-5ms", "3µs"][random.below(4)].into(),
        Shape::Quantity => [json!("100m"), json!("1.5Gi"), json!(2), json!("1e3"), json!("0")][random.below(5)].clone(),
        Shape::IntOrString => [json!(0), json!(80), json!("http"), json!("50%")][random.below(4)].clone(),
        Shape::Raw | Shape::Any => {
            [json!({"a": [1, "x", null]}), json!(["<"]), json!(5), json!("y")][random.below(4)].clone()
        }
        Shape::Struct(inner) => Value::Object(fields(inner.get(), random, depth + 1)),
        Shape::List(element) | Shape::Wrapped(element) => {
            // A list that is there but empty is lost in protobuf, upstream's as ours, unless omitempty hides it anyway.
            let least = usize::from(!field.omitempty || matches!(ty.shape, Shape::Wrapped(_)));
            Value::Array(
                (0..least + random.below(3))
                    .map(|_| value(field, element, random, depth))
                    .collect(),
            )
        }
        Shape::Map(element) => {
            let least = usize::from(!field.omitempty);
            (0..least + random.below(3))
                .map(|i| (format!("{}{i}", text(random)), value(field, element, random, depth)))
                .collect()
        }
        Shape::SchemaOrArray(schema) => match random.below(2) {
            0 => Value::Object(fields(schema.get(), random, depth + 1)),
            _ => Value::Array(vec![Value::Object(fields(schema.get(), random, depth + 1))]),
        },
        Shape::SchemaOrBool(schema) => match random.below(3) {
            0 => Value::Object(fields(schema.get(), random, depth + 1)),
            n => Value::Bool(n == 1),
        },
        Shape::SchemaOrStrings(schema) => match random.below(2) {
            0 => Value::Object(fields(schema.get(), random, depth + 1)),
            _ => json!(["a", "b"]),
        },
    }
}
