//! Upstream's golden objects: every kind with every field set, as JSON, YAML and protobuf.
//!
//! They are not in the repository. `hack/golden` fetches them.

use std::path::{Path, PathBuf};

use crate::codec::*;
use crate::facts::split_api_version;

fn folder() -> PathBuf {
    let folder = std::env::var_os("STEERSMAN_GOLDEN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cluster/cache/golden"),
        PathBuf::from,
    );
    assert!(
        folder.is_dir(),
        "no golden objects in {}: run hack/golden, or set STEERSMAN_GOLDEN to a folder that has upstream's testdata/HEAD",
        folder.display()
    );
    folder
}

/// Every golden object, without its extension.
fn objects() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "pb") && !path.to_string_lossy().contains("after_roundtrip")
            {
                found.push(path.with_extension(""));
            }
        }
    }
    found.sort();
    assert!(found.len() >= 185, "only {} golden objects", found.len());
    found
}

/// File names end in a kind, which `with_extension` would take for one.
fn form(path: &Path, extension: &str) -> Vec<u8> {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    std::fs::read(&name).unwrap_or_else(|e| panic!("{}: {e}", name.to_string_lossy()))
}

/// All faults at once: one wrong fact shows in many kinds.
fn each(check: impl Fn(&Path) -> Result<(), String>) {
    let faults: Vec<String> = objects()
        .iter()
        .filter_map(|p| check(p).err().map(|e| format!("{}: {e}", p.display())))
        .collect();
    assert!(faults.is_empty(), "{} faults\n{}", faults.len(), faults.join("\n"));
}

/// What stands in for the kind that a WatchEvent does not carry.
fn read(media: MediaType, bytes: &[u8]) -> Result<Decoded, String> {
    let watch_event = Gvk::new("", "v1", "WatchEvent");
    decode(media, bytes, Some(&watch_event)).map_err(|e| format!("{media:?}: {e}"))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn protobuf_decodes_and_encodes_to_the_same_bytes() {
    each(|path| {
        let golden = form(path, "pb");
        let decoded = read(MediaType::Protobuf, &golden)?;
        let again = encode(MediaType::Protobuf, &decoded.value).map_err(|e| e.to_string())?;
        if again == golden {
            Ok(())
        } else {
            Err(format!("{} bytes became {}", golden.len(), again.len()))
        }
    });
}

#[test]
fn all_three_forms_decode_to_the_same_object_with_nothing_unknown() {
    each(|path| {
        let protobuf = read(MediaType::Protobuf, &form(path, "pb"))?;
        let json = read(MediaType::Json, &form(path, "json"))?;
        let yaml = read(MediaType::Yaml, &form(path, "yaml"))?;
        for (name, other) in [("json", &json), ("yaml", &yaml)] {
            if !other.strict.is_empty() {
                return Err(format!("{name}: {:?}", other.strict));
            }
            if protobuf.value != other.value {
                return Err(format!("{name} differs\n{}\n{}", protobuf.value, other.value));
            }
        }
        Ok(())
    });
}

#[test]
fn json_is_written_as_go_writes_it() {
    each(|path| {
        let golden = form(path, "json");
        let mut compact = Vec::new();
        json::compact_json(&golden, &mut compact)?;
        let decoded = read(MediaType::Json, &golden)?;
        let (again, compact) = (
            text(encode(MediaType::Json, &decoded.value).map_err(|e| e.to_string())?),
            text(compact),
        );
        if again == compact {
            Ok(())
        } else {
            Err(format!("\n{again}\n{compact}"))
        }
    });
}

#[test]
fn protobuf_becomes_json_text_without_an_object_in_between() {
    each(|path| {
        if path.ends_with("core.v1.WatchEvent") {
            return Ok(());
        }
        let golden = form(path, "pb");
        let mut direct = Vec::new();
        protobuf_to_json(&golden, &mut direct).map_err(|e| e.to_string())?;
        let decoded = read(MediaType::Protobuf, &golden)?;
        let (direct, through) = (
            text(direct),
            text(encode(MediaType::Json, &decoded.value).map_err(|e| e.to_string())?),
        );
        if direct == through {
            Ok(())
        } else {
            Err(format!("\n{direct}\n{through}"))
        }
    });
}

#[test]
fn a_revision_is_spliced_into_every_kind() {
    each(|path| {
        let golden = form(path, "pb");
        let value = read(MediaType::Protobuf, &golden)?.value;
        // Lists, reviews and options are not stored and have no object metadata.
        if value["metadata"].get("name").is_none() {
            return Ok(());
        }
        let api_version = value["apiVersion"].as_str().unwrap_or_default();
        if matches!(
            split_api_version(api_version).0,
            "apiextensions.k8s.io" | "apiregistration.k8s.io"
        ) {
            return Ok(());
        }
        let stored = encode_stored(&value).map_err(|e| e.to_string())?;
        let spliced = with_resource_version(&stored, 77).map_err(|e| e.to_string())?;
        let mut expected = value.clone();
        expected["metadata"]["resourceVersion"] = "77".into();
        if let Some(metadata) = expected["metadata"].as_object_mut() {
            metadata.remove("selfLink");
        }
        let found = decode_stored(&spliced).map_err(|e| e.to_string())?;
        if found == expected {
            Ok(())
        } else {
            Err(format!("\n{found}\n{expected}"))
        }
    });
}
