//! Setting `metadata.resourceVersion` in stored bytes without decoding them. The store keeps no resourceVersion (it is
//! the revision of the write, known only afterwards), so every object read from it passes here once.

use super::proto::wire::{Reader, WireError};
use super::{EncodeError, is_protobuf};
use crate::codec::envelope::MAGIC;
use crate::codec::json::{Cursor, check};

/// Numbers from upstream's `.proto` files: `Unknown.raw`, `metadata` of every kind, `ObjectMeta.resourceVersion`.
const RAW: u32 = 2;
const METADATA: u32 = 1;
const RESOURCE_VERSION: u32 = 6;

pub(super) fn with_resource_version(stored: &[u8], revision: i64) -> Result<Vec<u8>, EncodeError> {
    let revision = revision.to_string();
    if is_protobuf(stored) {
        return protobuf(stored, &revision).map_err(|e| EncodeError::Damaged(e.to_string()));
    }
    json(stored, &revision).map_err(EncodeError::Damaged)
}

/// Where a field is inside a message: from its tag to its end, and its content.
struct Spot<'a> {
    start: usize,
    end: usize,
    content: &'a [u8],
}

/// The last length-delimited field of this number; where it would stand, empty, when it is not there.
fn locate(message: &[u8], wanted: u32) -> Result<Spot<'_>, WireError> {
    let mut reader = Reader::new(message);
    let mut spot: Option<Spot<'_>> = None;
    let mut before = 0;
    loop {
        let start = message.len() - reader.remaining();
        let Some((number, wire)) = reader.tag()? else { break };
        if (number, wire) == (wanted, 2) {
            let content = reader.bytes()?;
            spot = Some(Spot {
                start,
                end: message.len() - reader.remaining(),
                content,
            });
        } else {
            reader.skip(wire)?;
            if number < wanted {
                before = message.len() - reader.remaining();
            }
        }
    }
    Ok(spot.unwrap_or(Spot {
        start: before,
        end: before,
        content: &[],
    }))
}

fn varint_length(value: usize) -> usize {
    (1..10).find(|n| value >> (7 * n) == 0).unwrap_or(10)
}

fn push_varint(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

/// Numbers below 16: tags are one byte.
fn push_tag(out: &mut Vec<u8>, number: u32) {
    out.push(u8::try_from(number << 3 | 2).unwrap_or(0));
}

fn protobuf(stored: &[u8], revision: &str) -> Result<Vec<u8>, WireError> {
    let body = stored.get(MAGIC.len()..).unwrap_or_default();
    let raw = locate(body, RAW)?;
    let metadata = locate(raw.content, METADATA)?;
    let version = locate(metadata.content, RESOURCE_VERSION)?;

    // Inside out: the new lengths, then one pass of copying.
    let version_size = 1 + varint_length(revision.len()) + revision.len();
    let metadata_size = metadata.content.len() - (version.end - version.start) + version_size;
    let metadata_field = 1 + varint_length(metadata_size) + metadata_size;
    let raw_size = raw.content.len() - (metadata.end - metadata.start) + metadata_field;

    let mut out = Vec::with_capacity(stored.len() + version_size + 16);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&body[..raw.start]);
    push_tag(&mut out, RAW);
    push_varint(&mut out, raw_size);
    out.extend_from_slice(&raw.content[..metadata.start]);
    push_tag(&mut out, METADATA);
    push_varint(&mut out, metadata_size);
    out.extend_from_slice(&metadata.content[..version.start]);
    push_tag(&mut out, RESOURCE_VERSION);
    push_varint(&mut out, revision.len());
    out.extend_from_slice(revision.as_bytes());
    out.extend_from_slice(&metadata.content[version.end..]);
    out.extend_from_slice(&raw.content[metadata.end..]);
    out.extend_from_slice(&body[raw.end..]);
    Ok(out)
}

fn json(stored: &[u8], revision: &str) -> Result<Vec<u8>, String> {
    check(stored)?;
    let stored = stored.trim_ascii_end();
    let mut cursor = Cursor::new(stored);
    if cursor.peek() != b'{' {
        return Err("not an object".into());
    }
    cursor.at += 1;
    let member = format!("\"resourceVersion\":\"{revision}\"");
    let top = cursor.at;
    let Some((_, mut metadata)) = find(&mut cursor, b"metadata") else {
        // No metadata: there is some now, in front.
        let comma = if cursor_is_empty(stored, top) { "" } else { "," };
        return Ok(splice(stored, top, top, &format!("\"metadata\":{{{member}}}{comma}")));
    };
    if metadata.peek() != b'{' {
        return Err("metadata is not an object".into());
    }
    metadata.at += 1;
    let inside = metadata.at;
    Ok(match find(&mut metadata, b"resourceVersion") {
        Some((start, mut value)) => {
            value.skip();
            splice(stored, start, value.at, &member)
        }
        None => {
            let comma = if cursor_is_empty(stored, inside) { "" } else { "," };
            splice(stored, inside, inside, &format!("{member}{comma}"))
        }
    })
}

/// The member of the object whose inside the cursor is at: where its key starts, and a cursor on its value.
fn find<'a>(cursor: &mut Cursor<'a>, name: &[u8]) -> Option<(usize, Cursor<'a>)> {
    let mut first = true;
    while cursor.next(&mut first) {
        let start = cursor.at;
        if cursor.raw_key() == name {
            return Some((start, *cursor));
        }
        cursor.skip();
    }
    None
}

fn cursor_is_empty(text: &[u8], inside: usize) -> bool {
    let mut cursor = Cursor {
        bytes: text,
        at: inside,
    };
    cursor.peek() == b'}'
}

fn splice(text: &[u8], start: usize, end: usize, with: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + with.len());
    out.extend_from_slice(&text[..start]);
    out.extend_from_slice(with.as_bytes());
    out.extend_from_slice(&text[end..]);
    out
}
