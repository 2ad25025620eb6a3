//! Prints what the codecs cost on one object: `cargo run --release -p steersman-schema --example codec-cost FILE.json`.
//! Without a file, a small Deployment.

use std::time::{Duration, Instant};

use steersman_schema::codec::{
    MediaType, decode, decode_stored, encode, encode_stored, protobuf_to_json, with_resource_version,
};
use steersman_schema::facts::facts;

const EXAMPLE: &str = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","labels":{"app":"web"}},
"spec":{"replicas":3,"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},
"spec":{"containers":[{"name":"web","image":"nginx","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"500m"}}}]}}}}"#;

fn each(what: &str, bytes: usize, mut work: impl FnMut()) {
    let (start, mut rounds) = (Instant::now(), 0u32);
    while start.elapsed() < Duration::from_millis(300) {
        work();
        rounds += 1;
    }
    let took = start.elapsed() / rounds;
    let rate = bytes as f64 / took.as_secs_f64() / 1e6;
    println!("{what:24} {:>10.1} us {rate:>8.0} MB/s", took.as_secs_f64() * 1e6);
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let types = facts().types().len();
    println!("table of {types} types: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let body = match std::env::args().nth(1) {
        Some(path) => std::fs::read(path)?,
        None => EXAMPLE.into(),
    };
    let value = decode(MediaType::Json, &body, None)?.value;
    let stored = encode_stored(&value)?;
    let json = encode(MediaType::Json, &value)?;
    println!("{} bytes of JSON, {} stored", json.len(), stored.len());
    let mut out = Vec::new();
    each("decode JSON", body.len(), || drop(decode(MediaType::Json, &body, None)));
    each("encode JSON", json.len(), || drop(encode(MediaType::Json, &value)));
    each("encode protobuf", stored.len(), || drop(encode_stored(&value)));
    each("decode protobuf", stored.len(), || drop(decode_stored(&stored)));
    each("protobuf to JSON", stored.len(), || {
        out.clear();
        drop(protobuf_to_json(&stored, &mut out));
    });
    each("splice a revision", stored.len(), || {
        drop(with_resource_version(&stored, 12_345))
    });
    Ok(())
}
