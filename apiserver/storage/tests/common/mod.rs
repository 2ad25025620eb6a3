//! What several suites need.
#![allow(dead_code, clippy::unwrap_used)]

use bytes::Bytes;
use steersman_storage::cache::{Indexed, Indexer, Pairs};

/// Understands values `node=NAME;PAYLOAD` (or with a brace in front, so that it looks like JSON); the stored bytes get `@REVISION` appended, as the real one splices the
/// resourceVersion in.
pub struct TestIndexer;

impl Indexer for TestIndexer {
    fn index(&self, _key: &str, value: &[u8], mod_revision: i64) -> Result<Indexed, String> {
        let text = std::str::from_utf8(value).map_err(|e| e.to_string())?;
        let (node, _) = text
            .strip_prefix("node=")
            .and_then(|rest| rest.split_once(';'))
            .ok_or("no node in the value")?;
        Ok(Indexed {
            stored: Bytes::from(format!("{text}@{mod_revision}")),
            uid: "uid".into(),
            labels: Pairs::default(),
            fields: Pairs::from_iter([("spec.nodeName", node)]),
            extra: None,
        })
    }
}
