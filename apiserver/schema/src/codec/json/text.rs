//! JSON strings as Go's encoder writes them, and compaction of raw JSON.

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as a JSON string. Go also escapes `<`, `>`, `&` and the line separators U+2028 and U+2029.
pub(in crate::codec) fn push_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text.as_bytes());
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let width = match byte {
            b'"' | b'\\' | b'<' | b'>' | b'&' | 0..0x20 => 1,
            0xe2 if matches!(bytes.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9])) => 3,
            _ => {
                at += 1;
                continue;
            }
        };
        out.extend_from_slice(&bytes[copied..at]);
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0xe2 => out.extend_from_slice(if bytes[at + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" }),
            other => {
                let (high, low) = (HEX[usize::from(other >> 4)], HEX[usize::from(other & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        at += width;
        copied = at;
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// Appends raw JSON without white space between its tokens, as Go prints what a RawExtension holds.
pub(in crate::codec) fn compact_json(raw: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    super::check(raw)?;
    let text = String::from_utf8_lossy(raw);
    let bytes = text.as_bytes();
    let (mut at, mut in_string, mut copied) = (0, false, 0);
    while at < bytes.len() {
        let width = match bytes[at] {
            b'"' => {
                in_string = !in_string;
                0
            }
            b'\\' if in_string => {
                at += 2;
                continue;
            }
            b' ' | b'\t' | b'\r' | b'\n' if !in_string => 1,
            b'<' | b'>' | b'&' => 1,
            0xe2 if matches!(bytes.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9])) => 3,
            _ => 0,
        };
        if width > 0 {
            out.extend_from_slice(&bytes[copied..at]);
            if in_string {
                push_escaped(out, &bytes[at..at + width]);
            }
            copied = at + width;
        }
        at += width.max(1);
    }
    out.extend_from_slice(&bytes[copied.min(bytes.len())..]);
    Ok(())
}
