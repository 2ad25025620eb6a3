//! What JSON decoding says and keeps. Expected texts were read off upstream.

use serde_json::json;

use crate::codec::*;

fn read(body: &str) -> Decoded {
    decode(MediaType::Json, body.as_bytes(), None).unwrap()
}

fn refused(body: &str) -> String {
    decode(MediaType::Json, body.as_bytes(), None)
        .unwrap_err()
        .bad_request("Deployment", body.as_bytes())
}

fn deployment(rest: &str) -> String {
    format!(r#"{{"apiVersion":"apps/v1","kind":"Deployment",{rest}}}"#)
}

#[test]
fn unknown_and_duplicate_fields_are_named_with_their_paths() {
    let body = deployment(
        r#""spec":{"replicas":1,"replicas":2,"foo":1,"template":{"spec":{"containers":[{"name":"a","Name":"b"}]}}},
           "metadata":{"labels":{"a":"1","a":"2"}}"#,
    );
    let decoded = read(&body);
    let expected = [
        r#"duplicate field "spec.replicas""#,
        r#"unknown field "spec.foo""#,
        r#"unknown field "spec.template.spec.containers[0].Name""#,
        r#"duplicate field "metadata.labels.a""#,
    ];
    assert_eq!(decoded.strict, expected);
    assert_eq!(decoded.value["spec"]["replicas"], 2);
}

#[test]
fn values_of_the_wrong_type_are_refused_in_gos_words() {
    let mistyped = |rest: &str| {
        let text = refused(&deployment(rest));
        text.strip_prefix("Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal ")
            .unwrap_or(&text)
            .to_owned()
    };
    for (rest, expected) in [
        (
            r#""spec":{"replicas":"3"}"#,
            "string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#""spec":{"replicas":3000000000}"#,
            "number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#""spec":{"replicas":1.5}"#,
            "number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#""spec":[]"#,
            "array into Go struct field Deployment.spec of type v1.DeploymentSpec",
        ),
        (
            r#""metadata":{"labels":{"a":1}}"#,
            "number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#""spec":{"template":{"spec":{"containers":{}}}}"#,
            "object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            r#""spec":{"template":{"spec":{"volumes":[{"name":"a","configMap":true}]}}}"#,
            "bool into Go struct field Volume.spec.template.spec.volumes.VolumeSource.configMap of type v1.ConfigMapVolumeSource",
        ),
        (
            r#""metadata":{"creationTimestamp":5}"#,
            "number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
    ] {
        assert_eq!(mistyped(rest), expected);
    }
    let limits = r#""spec":{"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}}"#;
    assert!(
        mistyped(limits)
            .ends_with("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    );
}

#[test]
fn broken_json_is_refused_in_gos_words() {
    let broken = |body: &str| {
        let text = refused(body);
        text.strip_prefix("the object provided is unrecognized (must be of type Deployment): couldn't get version/kind; json parse error: ")
            .unwrap_or(&text)
            .to_owned()
    };
    for (body, expected) in [
        ("{", "unexpected end of JSON input ({)"),
        (
            "{\"a\":1,}",
            "invalid character '}' looking for beginning of object key string ({\"a\":1,})",
        ),
        ("[1", "unexpected end of JSON input (5b31)"),
        (
            "nope",
            "invalid character 'o' in literal null (expecting 'u') (6e6f7065)",
        ),
        ("{} x", "invalid character 'x' after top-level value ({} x)"),
        (
            "{\"a\":\"\u{1}\"}",
            "invalid character '\\x01' in string literal ({\"a\":\"\u{1}\"})",
        ),
    ] {
        assert_eq!(broken(body), expected);
    }
    assert_eq!(
        refused("{}"),
        "the object provided is unrecognized (must be of type Deployment): Object 'Kind' is missing in '{}' ({})"
    );
    assert_eq!(
        refused(r#"{"kind":"Foo","apiVersion":"apps/v1"}"#),
        "Foo in version \"v1\" cannot be handled as a Deployment: no kind \"Foo\" is registered for version \"apps/v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    );
}

#[test]
fn a_decoded_object_has_gos_zero_values_and_no_nulls() {
    let decoded = read(&deployment(r#""spec":{"replicas":null,"paused":false,"selector":{}}"#));
    let expected = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "status": {},
        "spec": {"selector": {}, "strategy": {}, "template": {"metadata": {}, "spec": {}}}
    });
    assert_eq!(decoded.value, expected);
    let text = String::from_utf8(encode(MediaType::Json, &decoded.value).unwrap()).unwrap();
    let expected = r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{},"spec":{"selector":{},"template":{"metadata":{},"spec":{"containers":null}},"strategy":{}},"status":{}}"#;
    assert_eq!(text, expected);
}

#[test]
fn lists_and_maps_that_are_sent_empty_are_kept_and_not_printed() {
    let decoded = read(&deployment(r#""metadata":{"labels":{},"finalizers":[]},"spec":{}"#));
    assert_eq!(decoded.value["metadata"], json!({"labels": {}, "finalizers": []}));
    let text = String::from_utf8(encode(MediaType::Json, &decoded.value).unwrap()).unwrap();
    assert!(text.contains(r#""metadata":{},"#), "{text}");
}

#[test]
fn quantities_and_times_come_out_canonical() {
    let body = r#"{"apiVersion":"v1","kind":"LimitRange","metadata":{"creationTimestamp":"2020-01-02T03:04:05.678+01:00"},
        "spec":{"limits":[{"max":{"cpu":"1000m","memory":0.5,"x":"1024Ki"}}]}}"#;
    let value = read(body).value;
    assert_eq!(value["metadata"]["creationTimestamp"], "2020-01-02T02:04:05Z");
    assert_eq!(
        value["spec"]["limits"][0]["max"],
        json!({"cpu": "1", "memory": "500m", "x": "1Mi"})
    );
}

#[test]
fn the_requests_kind_stands_in_for_a_missing_one() {
    let gvk = Gvk::new("", "v1", "ConfigMap");
    let decoded = decode(MediaType::Json, br#"{"data":{"a":"b"}}"#, Some(&gvk)).unwrap();
    assert_eq!(decoded.value["kind"], "ConfigMap");
    assert_eq!(decoded.value["apiVersion"], "v1");
}

#[test]
fn a_revision_is_spliced_into_stored_bytes_of_both_forms() {
    let pod = read(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","resourceVersion":"old"}}"#).value;
    let stored = encode_stored(&pod).unwrap();
    assert!(
        decode_stored(&stored).unwrap()["metadata"]
            .get("resourceVersion")
            .is_none()
    );
    let with = with_resource_version(&stored, 123_456).unwrap();
    assert_eq!(decode_stored(&with).unwrap()["metadata"]["resourceVersion"], "123456");
    let again = with_resource_version(&with, 7).unwrap();
    assert_eq!(decode_stored(&again).unwrap()["metadata"]["resourceVersion"], "7");
    for stored in [
        r#"{"apiVersion":"example.com/v1","kind":"Foo","metadata":{"name":"a"},"x":1}"#,
        r#"{"apiVersion":"example.com/v1","kind":"Foo","metadata":{}}"#,
        r#"{"kind":"Foo","metadata":{"name":"a","resourceVersion":"1","b":"c"},"apiVersion":"example.com/v1"}"#,
        r#"{"apiVersion":"example.com/v1","kind":"Foo"}"#,
    ] {
        let with = with_resource_version(stored.as_bytes(), 9).unwrap();
        assert_eq!(
            decode_stored(&with).unwrap()["metadata"]["resourceVersion"],
            "9",
            "{stored}"
        );
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = format!(r#"{{"kind":"Pod","apiVersion":"v1","x":{}"#, "[".repeat(100_000));
    assert!(refused(&deep).contains("exceeded max depth"));
}

#[test]
fn yaml_becomes_the_same_object() {
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  name: b\ndata:\n  x: \"1\"\n---\nfoo: bar\n";
    let decoded = decode(MediaType::Yaml, body.as_bytes(), None).unwrap();
    assert_eq!(decoded.value["metadata"]["name"], "b");
    assert_eq!(decoded.strict.len(), 1, "{:?}", decoded.strict);
    let again = encode(MediaType::Yaml, &decoded.value).unwrap();
    assert_eq!(decode(MediaType::Yaml, &again, None).unwrap().value, decoded.value);
}

#[test]
fn what_go_prints_as_null_is_printed_as_null_from_both_forms() {
    for (body, expected) in [
        (
            r#"{"apiVersion":"v1","kind":"Node","status":{"conditions":[{"type":"Ready","status":"True"}]}}"#,
            r#""conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":null,"lastTransitionTime":null}]"#,
        ),
        (
            r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest"}"#,
            r#""spec":{"audiences":null,"expirationSeconds":null,"boundObjectRef":null},"status":{"token":"","expirationTimestamp":null}"#,
        ),
        (
            r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role"}"#,
            r#""rules":null"#,
        ),
    ] {
        let value = read(body).value;
        let typed = String::from_utf8(encode(MediaType::Json, &value).unwrap()).unwrap();
        assert!(typed.contains(expected), "{typed}");
        let mut direct = Vec::new();
        protobuf_to_json(&encode(MediaType::Protobuf, &value).unwrap(), &mut direct).unwrap();
        assert_eq!(String::from_utf8(direct).unwrap(), typed);
    }
}
