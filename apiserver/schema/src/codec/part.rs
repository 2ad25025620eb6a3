//! Parts of a stored object, cut out of its protobuf bytes without decoding them.

use super::EncodeError;
use super::envelope::Envelope;
use super::proto::wire::{Reader, WireError};

/// Numbers from upstream's `.proto` files: `metadata` of every kind, and of `ObjectMeta` what is large and seldom shown.
const METADATA: u32 = 1;
const ANNOTATIONS: u32 = 12;
const MANAGED_FIELDS: u32 = 17;

/// A protobuf envelope's object as a `PartialObjectMetadata` of meta.k8s.io/v1, in an envelope of its own: both have
/// their metadata as field 1.
///
/// # Errors
/// When the bytes are damaged.
pub fn metadata(stored: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let envelope = Envelope::open(stored).map_err(EncodeError::Damaged)?;
    super::envelope::write("meta.k8s.io/v1", "PartialObjectMetadata", |out| {
        let mut reader = Reader::new(envelope.raw);
        let mut metadata: &[u8] = &[];
        while let Some((number, wire)) = reader.tag()? {
            if (number, wire) == (METADATA, 2) {
                metadata = reader.bytes()?;
            } else {
                reader.skip(wire)?;
            }
        }
        out.bytes(METADATA, metadata);
        Ok(())
    })
    .map_err(damaged)
}

/// The same object without annotations and managed fields: for what shows neither.
///
/// # Errors
/// When the bytes are damaged.
pub fn without_bulk(stored: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let envelope = Envelope::open(stored).map_err(EncodeError::Damaged)?;
    super::envelope::write(envelope.api_version, envelope.kind, |out| {
        // Metadata comes first; a message may be put together in any order.
        let mut reader = Reader::new(envelope.raw);
        let mut others: Vec<&[u8]> = Vec::new();
        let mut metadata: &[u8] = &[];
        loop {
            let begin = reader.remaining();
            let Some((number, wire)) = reader.tag()? else { break };
            if (number, wire) == (METADATA, 2) {
                metadata = reader.bytes()?;
                continue;
            }
            reader.skip(wire)?;
            let at = envelope.raw.len() - begin;
            others.push(
                envelope
                    .raw
                    .get(at..envelope.raw.len() - reader.remaining())
                    .unwrap_or_default(),
            );
        }
        for piece in others.into_iter().rev() {
            out.prepend(piece);
        }
        let mark = out.mark();
        for piece in kept(metadata)?.into_iter().rev() {
            out.prepend(piece);
        }
        out.close(METADATA, mark);
        Ok(())
    })
    .map_err(damaged)
}

/// The fields of an `ObjectMeta` that stay, each with its tag.
fn kept(metadata: &[u8]) -> Result<Vec<&[u8]>, WireError> {
    let mut reader = Reader::new(metadata);
    let mut pieces = Vec::new();
    loop {
        let at = metadata.len() - reader.remaining();
        let Some((number, wire)) = reader.tag()? else {
            return Ok(pieces);
        };
        reader.skip(wire)?;
        if number != ANNOTATIONS && number != MANAGED_FIELDS {
            pieces.push(
                metadata
                    .get(at..metadata.len() - reader.remaining())
                    .unwrap_or_default(),
            );
        }
    }
}

fn damaged(error: WireError) -> EncodeError {
    EncodeError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::codec::{decode_stored, encode_stored};

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "n", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a": "b"},
                "annotations": {"c": "d"}, "uid": "u", "finalizers": ["f/f"]},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}], "nodeName": "x"}, "status": {"phase": "Running"}})
    }

    #[test]
    fn metadata_alone_is_what_decoding_and_picking_gives() {
        let stored = encode_stored(&pod()).unwrap();
        let whole = decode_stored(&stored).unwrap();
        let part = decode_stored(&metadata(&stored).unwrap()).unwrap();
        assert_eq!(
            (&part["kind"], &part["apiVersion"]),
            (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1"))
        );
        assert_eq!(part["metadata"], whole["metadata"]);
        assert_eq!(part.as_object().unwrap().len(), 3);
    }

    #[test]
    fn without_bulk_only_the_bulk_is_missing() {
        let stored = encode_stored(&pod()).unwrap();
        let mut whole = decode_stored(&stored).unwrap();
        whole["metadata"].as_object_mut().unwrap().remove("annotations");
        assert_eq!(decode_stored(&without_bulk(&stored).unwrap()).unwrap(), whole);
    }

    #[test]
    fn damaged_bytes_are_refused_not_panicked_over() {
        let stored = encode_stored(&pod()).unwrap();
        for cut in 0..stored.len() {
            let _ = metadata(&stored[..cut]);
            let _ = without_bulk(&stored[..cut]);
        }
        assert!(metadata(b"{}").is_err());
    }
}
