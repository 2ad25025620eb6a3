//! Takes field descriptions from the k8s-openapi crate, so that they need not be checked in: one compressed text that
//! `openapi::descriptions` reads. Only OpenAPI documents use it.
//!
//! The crate's sources carry every description beside its JSON name (in the code behind its `schemars` feature), below a
//! line that names the definition. Where they lie, cargo knows.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use serde_json::Value;

/// The version of the API whose descriptions are taken.
const API: &str = "v1_36";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=Cargo.toml");
    println!("cargo:rerun-if-changed=data");
    println!("cargo:rustc-env=STEERSMAN_FACTS_HASH={:016x}", facts_hash());
    let mut text = String::new();
    for file in sources(&crate_folder().join("src").join(API)) {
        let source = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        describe(&source, &mut text);
    }
    assert!(
        text.len() > 100_000,
        "no descriptions were found in k8s-openapi: its sources have another form now"
    );
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("descriptions.deflate");
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).expect("memory can be written");
    std::fs::write(out, encoder.finish().expect("memory can be written")).expect("OUT_DIR can be written");
}

/// FNV-1a of the table and of the code that turns it into documents.
fn facts_hash() -> u64 {
    println!("cargo:rerun-if-changed=src/openapi");
    let mut files: Vec<PathBuf> = ["data", "src/openapi"]
        .into_iter()
        .flat_map(|f| std::fs::read_dir(f).expect("a folder"))
        .map(|e| e.expect("an entry").path())
        .collect();
    files.sort();
    let bytes = files.into_iter().flat_map(|f| std::fs::read(f).expect("a file"));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The folder of the k8s-openapi that this workspace locks.
fn crate_folder() -> PathBuf {
    // Off line first: with the network, cargo also fetches what only other packages' tests need.
    let output = Some(metadata(&["--offline"]))
        .filter(|o| o.status.success())
        .unwrap_or_else(|| metadata(&[]));
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages
        .iter()
        .find(|p| p["name"] == "k8s-openapi")
        .expect("k8s-openapi is a dependency");
    Path::new(package["manifest_path"].as_str().expect("a path"))
        .parent()
        .expect("a folder")
        .to_owned()
}

fn metadata(more: &[&str]) -> std::process::Output {
    let variable = |name: &str| std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    Command::new(variable("CARGO"))
        .args(["metadata", "--format-version=1", "--filter-platform"])
        .arg(variable("TARGET"))
        .arg("--manifest-path")
        .arg(Path::new(&variable("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .args(more)
        .output()
        .expect("cargo runs")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for path in entries.map(|entry| entry.expect("a readable folder").path()) {
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Writes `T NAME<TAB>DESCRIPTION`, then `F NAME<TAB>DESCRIPTION` per field; descriptions as JSON strings.
fn describe(source: &str, out: &mut String) {
    let Some((_, body)) = source.split_once("json_schema!({") else {
        return;
    };
    let Some(name) = source
        .lines()
        .find_map(|l| l.trim().strip_prefix('"')?.strip_suffix("\".into()"))
    else {
        return;
    };
    let (head, properties) = body.split_once("\"properties\": {").unwrap_or((body, ""));
    let whole = head
        .lines()
        .find_map(|l| literal(l.trim().strip_prefix("\"description\": ")?))
        .unwrap_or_default();
    out.push_str(&format!("T {name}\t{whole}\n"));
    let mut field = "";
    for line in properties.lines() {
        // The list of properties ends where its brace closes.
        if line == "            }," {
            break;
        }
        if let Some(rest) = line.strip_prefix("                \"") {
            field = rest.split('"').next().unwrap_or_default();
        }
        let line = line.trim();
        let described = line
            .strip_prefix("\"description\": ")
            .or_else(|| line.split_once("\"description\".into(), ").map(|(_, r)| r));
        if let Some(description) = described.and_then(literal) {
            // A description further inside, of elements, comes after the field's own.
            if !field.is_empty() {
                out.push_str(&format!("F {field}\t{description}\n"));
                field = "";
            }
        }
    }
}

/// A Rust string literal at the start of `text`, as a JSON string. The two notations agree on the escapes that occur.
fn literal(text: &str) -> Option<String> {
    let mut end = None;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                end = Some(at);
                break;
            }
            _ => {}
        }
    }
    let literal = text.get(..=end?)?;
    serde_json::from_str::<String>(literal)
        .ok()
        .map(|plain| Value::from(plain).to_string())
}
