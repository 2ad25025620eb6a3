//! What the fields of the API mean, in upstream's words: taken from the k8s-openapi crate when this crate is built.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::DeflateDecoder;

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.deflate"));

/// Descriptions by type name, and by type and field. Made for one document and dropped again: it is large, and nobody
/// asks often.
pub struct Descriptions {
    types: HashMap<String, Described>,
}

#[derive(Default)]
struct Described {
    text: String,
    fields: HashMap<String, String>,
}

impl Descriptions {
    pub fn unpack() -> Self {
        let mut text = String::new();
        // Packed by our build script; were it damaged, documents would have no descriptions.
        let _ = DeflateDecoder::new(PACKED).read_to_string(&mut text);
        let mut types: HashMap<String, Described> = HashMap::new();
        let mut current = String::new();
        for line in text.lines() {
            let Some((mark, rest)) = line.split_once(' ') else {
                continue;
            };
            let Some((name, description)) = rest.split_once('\t') else {
                continue;
            };
            let description: String = serde_json::from_str(description).unwrap_or_default();
            if mark == "T" {
                name.clone_into(&mut current);
                types.entry(current.clone()).or_default().text = description;
            } else if let Some(described) = types.get_mut(&current) {
                described.fields.insert(name.to_owned(), description);
            }
        }
        Self { types }
    }

    pub fn of_type(&self, name: &str) -> &str {
        self.types.get(name).map_or("", |t| &t.text)
    }

    pub fn of_field(&self, name: &str, field: &str) -> &str {
        self.types
            .get(name)
            .and_then(|t| t.fields.get(field))
            .map_or("", String::as_str)
    }
}
