//! The protobuf envelope: `k8s\0`, then upstream's `runtime.Unknown` around an object's own message. It carries
//! `apiVersion` and `kind`, which the message lacks.

use super::proto::wire::{Backwards, Reader, WireError};

/// What starts every protobuf body and every stored built-in object.
pub(super) const MAGIC: &[u8; 4] = b"k8s\0";

/// Whether bytes are a protobuf envelope.
#[must_use]
pub fn is_protobuf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// An envelope, opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    /// The object's message.
    pub raw: &'a [u8],
    pub content_encoding: &'a str,
    pub content_type: &'a str,
}

impl<'a> Envelope<'a> {
    /// Opens an envelope without copying.
    ///
    /// # Errors
    /// When the bytes do not start with the magic, or the wrapper is malformed.
    pub fn open(bytes: &'a [u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("empty data".into());
        }
        let Some(body) = bytes.strip_prefix(MAGIC) else {
            return Err(
                "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".into(),
            );
        };
        if body.is_empty() {
            return Err("empty body".into());
        }
        let text = |e: WireError| e.to_string();
        let utf8 = |b: &'a [u8]| std::str::from_utf8(b).map_err(|_| "proto: invalid UTF-8 in envelope".to_owned());
        let mut found = Self::default();
        let mut reader = Reader::new(body);
        while let Some((number, wire)) = reader.tag().map_err(text)? {
            match (number, wire) {
                (1, 2) => {
                    let mut meta = Reader::new(reader.bytes().map_err(text)?);
                    while let Some((number, wire)) = meta.tag().map_err(text)? {
                        match (number, wire) {
                            (1, 2) => found.api_version = utf8(meta.bytes().map_err(text)?)?,
                            (2, 2) => found.kind = utf8(meta.bytes().map_err(text)?)?,
                            _ => meta.skip(wire).map_err(text)?,
                        }
                    }
                }
                (2, 2) => found.raw = reader.bytes().map_err(text)?,
                (3, 2) => found.content_encoding = utf8(reader.bytes().map_err(text)?)?,
                (4, 2) => found.content_type = utf8(reader.bytes().map_err(text)?)?,
                _ => reader.skip(wire).map_err(text)?,
            }
        }
        Ok(found)
    }
}

/// An envelope around what `message` writes.
pub(super) fn write<E>(
    api_version: &str,
    kind: &str,
    message: impl FnOnce(&mut Backwards) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    let mut out = Backwards::with_capacity(1024);
    // contentEncoding and contentType, both empty: Go writes them all the same.
    out.prepend(&[0x1a, 0x00, 0x22, 0x00]);
    let mark = out.mark();
    message(&mut out)?;
    out.close(2, mark);
    let mark = out.mark();
    out.bytes(2, kind.as_bytes());
    out.bytes(1, api_version.as_bytes());
    out.close(1, mark);
    out.prepend(MAGIC);
    Ok(out.finish())
}
