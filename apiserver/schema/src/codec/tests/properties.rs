//! What holds for every object of every kind, and for bytes that are no objects at all.

use proptest::prelude::*;
use serde_json::Value;

use super::generate::{Random, kinds, object};
use crate::codec::*;
use crate::facts::Shape;

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Decodes what a client could send.
fn sent(seed: u64) -> Value {
    let mut random = Random(seed);
    let kinds = kinds();
    let ty = kinds[random.below(kinds.len())];
    let body = serde_json::to_vec(&object(ty, &mut random)).unwrap();
    let decoded = decode(MediaType::Json, &body, None).unwrap_or_else(|e| panic!("{e}\n{}", text(&body)));
    assert!(decoded.strict.is_empty(), "{:?}", decoded.strict);
    settled(decoded.value)
}

/// Without empty lists, which no medium keeps where they may be left out.
fn settled(mut value: Value) -> Value {
    if let Some(ty) = object_type(&value) {
        forget::empties(&mut value, ty);
    }
    value
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_object_survives_every_media_type(seed: u64) {
        let value = sent(seed);
        for media in [MediaType::Json, MediaType::Protobuf, MediaType::Yaml] {
            let bytes = encode(media, &value).unwrap();
            let again = decode(media, &bytes, None).unwrap();
            prop_assert!(again.strict.is_empty(), "{:?}", again.strict);
            prop_assert_eq!(&settled(again.value.clone()), &value, "{:?}\n{}", media, String::from_utf8_lossy(&bytes));
            prop_assert_eq!(encode(media, &again.value).unwrap(), bytes);
        }
    }

    #[test]
    fn protobuf_to_json_equals_decoding_and_encoding(seed: u64) {
        let value = sent(seed);
        let mut direct = Vec::new();
        protobuf_to_json(&encode(MediaType::Protobuf, &value).unwrap(), &mut direct).unwrap();
        let through = encode(MediaType::Json, &value).unwrap();
        prop_assert_eq!(text(&direct), text(&through));
    }

    #[test]
    fn what_is_stored_comes_back_with_its_revision(seed: u64, revision in 1i64..) {
        let mut value = sent(seed);
        let metadata = object_type(&value).and_then(|t| t.field("metadata"));
        // Lists, Status and options are not stored; their metadata is another.
        if !metadata.is_some_and(|f| matches!(&f.ty.shape, Shape::Struct(t) if t.short == "ObjectMeta")) {
            return Ok(());
        }
        let stored = encode_stored(&value).unwrap();
        let spliced = with_resource_version(&stored, revision).unwrap();
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("selfLink");
            metadata.insert("resourceVersion".into(), revision.to_string().into());
        }
        prop_assert_eq!(decode_stored(&spliced).unwrap(), value);
    }

    #[test]
    fn random_bytes_are_refused_or_read_but_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        exercise(&bytes);
        let mut enveloped = b"k8s\0".to_vec();
        enveloped.extend_from_slice(&bytes);
        exercise(&enveloped);
    }
}

/// Everything that reads bytes from outside.
fn exercise(bytes: &[u8]) {
    for media in [MediaType::Json, MediaType::Protobuf] {
        if let Ok(decoded) = decode(media, bytes, None) {
            // What was read can be written.
            encode(MediaType::Json, &decoded.value).unwrap();
            encode(MediaType::Protobuf, &decoded.value).unwrap();
        }
    }
    drop(decode_untyped(bytes));
    drop(decode_stored(bytes));
    drop(with_resource_version(bytes, 1));
    drop(protobuf_to_json(bytes, &mut Vec::new()));
    drop(Envelope::open(bytes));
}

#[test]
fn damaged_objects_are_refused_or_read_but_never_panic() {
    let mut random = Random(1);
    for seed in 0..400 {
        let value = sent(seed);
        for media in [MediaType::Json, MediaType::Protobuf] {
            let whole = encode(media, &value).unwrap();
            for _ in 0..20 {
                let mut damaged = whole.clone();
                for _ in 0..=random.below(4) {
                    let at = random.below(damaged.len());
                    damaged[at] = u8::try_from(random.below(256)).unwrap();
                }
                if random.below(3) == 0 {
                    damaged.truncate(random.below(whole.len()));
                }
                exercise(&damaged);
            }
        }
    }
}

#[test]
fn yaml_bombs_and_damaged_yaml_are_refused_quickly() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..20 {
        let alias = format!("*a{}", i - 1);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![alias; 9].join(",")));
    }
    bomb.push_str("apiVersion: v1\nkind: ConfigMap\n");
    assert!(decode(MediaType::Yaml, bomb.as_bytes(), None).is_err());
    let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    assert!(decode(MediaType::Yaml, deep.as_bytes(), None).is_err());
    let mut random = Random(2);
    for seed in 0..20 {
        let whole = encode(MediaType::Yaml, &sent(seed)).unwrap();
        let mut damaged = whole[..whole.len().min(4000)].to_vec();
        let at = random.below(damaged.len());
        damaged[at] = u8::try_from(random.below(256)).unwrap();
        drop(decode(MediaType::Yaml, &damaged, None));
    }
}

#[test]
fn messages_nested_without_end_are_refused() {
    /// A tag of a length-delimited field, and the length.
    fn wrap(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut tag = u32::from(number) << 3 | 2;
        let mut length = u32::try_from(inner.len()).unwrap();
        for value in [&mut tag, &mut length] {
            while *value > 0x7f {
                out.push(u8::try_from(*value & 0x7f).unwrap() | 0x80);
                *value >>= 7;
            }
            out.push(u8::try_from(*value).unwrap());
        }
        out.extend_from_slice(inner);
        out
    }
    for (depth, fits) in [(100, true), (5_000, false)] {
        // spec.versions.schema.openAPIV3Schema, and then `not` in `not`.
        let schema = (0..depth).fold(Vec::new(), |inner, _| wrap(28, &inner));
        let crd = wrap(2, &wrap(7, &wrap(4, &wrap(1, &schema))));
        let mut meta = wrap(1, b"apiextensions.k8s.io/v1");
        meta.extend(wrap(2, b"CustomResourceDefinition"));
        let mut body = b"k8s\0".to_vec();
        body.extend(wrap(1, &meta));
        body.extend(wrap(2, &crd));
        assert_eq!(decode(MediaType::Protobuf, &body, None).is_ok(), fits, "{depth}");
        assert_eq!(protobuf_to_json(&body, &mut Vec::new()).is_ok(), fits, "{depth}");
        if fits {
            let value = decode(MediaType::Protobuf, &body, None).unwrap().value;
            let json = encode(MediaType::Json, &value).unwrap();
            assert_eq!(decode(MediaType::Json, &json, None).unwrap().value, value);
            assert!(
                text(&json).matches("\"not\"").count() >= depth,
                "nothing was passed over"
            );
        }
    }
}

#[test]
fn a_small_body_cannot_become_a_huge_object() {
    let containers = format!("[{}{{}}]", "{},".repeat(500_000));
    let body = format!(r#"{{"apiVersion":"v1","kind":"Pod","spec":{{"containers":{containers}}}}}"#);
    assert!(decode(MediaType::Json, body.as_bytes(), None).is_err());
    let mut spec = Vec::new();
    for _ in 0..500_000 {
        spec.extend_from_slice(&[0x12, 0x00]);
    }
    let raw_length = [0x12, 0xc0, 0x84, 0x3d];
    let mut body = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\xc4\x84\x3d".to_vec();
    body.extend_from_slice(&raw_length);
    body.extend_from_slice(&spec);
    let refused = decode(MediaType::Protobuf, &body, None).unwrap_err().to_string();
    assert_eq!(refused, TOO_MANY);
}
