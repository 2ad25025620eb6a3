//! Bytes from outside through everything that reads them: no panic, no endless loop, bounded memory; and what was read
//! can be written and read again to the same object.
//!
//! The first byte picks the media type, so that one corpus serves all of them. Upstream's golden objects (`hack/golden`)
//! are good seeds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use steersman_schema::codec::{
    MediaType, decode, decode_stored, decode_untyped, encode, encode_stored, protobuf_to_json, with_resource_version,
};
use steersman_schema::facts::Gvk;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, body)) = bytes.split_first() else { return };
    let media = match choice % 3 {
        0 => MediaType::Json,
        1 => MediaType::Yaml,
        _ => MediaType::Protobuf,
    };
    if let Ok(decoded) = decode(media, body, None) {
        let text = |key: &str| decoded.value[key].as_str().unwrap_or_default();
        // A WatchEvent does not carry its kind.
        let gvk = Gvk::from_api_version(text("apiVersion"), text("kind"));
        for media in [MediaType::Json, MediaType::Protobuf] {
            let written = encode(media, &decoded.value).expect("what was read can be written");
            let again = decode(media, &written, Some(&gvk)).expect("what was written can be read").value;
            let rewritten = encode(media, &again).expect("and written again");
            assert_eq!(rewritten, written);
        }
        drop(encode_stored(&decoded.value));
    }
    drop(decode_stored(body));
    drop(decode_untyped(body));
    drop(with_resource_version(body, 1));
    drop(protobuf_to_json(body, &mut Vec::new()));
});
