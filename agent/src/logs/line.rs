//! One line of a CRI log.

use steersman_types::jiff::Timestamp;

/// A parsed line; borrows from the file's bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub time: Timestamp,
    /// The time as written, with all its digits.
    pub time_text: &'a str,
    pub stdout: bool,
    /// A part of a longer line: no line break after it.
    pub partial: bool,
    /// With its line break, unless partial.
    pub text: &'a [u8],
}

/// Parses a line with its line break. `None` for what is not a CRI log line.
#[must_use]
pub fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let time_text = std::str::from_utf8(parts.next()?).ok()?;
    let time = time_text.parse().ok()?;
    let stdout = match parts.next()? {
        b"stdout" => true,
        b"stderr" => false,
        _ => return None,
    };
    // Tags are separated by colons; the first says whether the line is complete.
    let tag = parts.next()?;
    let partial = tag.split(|b| *b == b':').next() == Some(b"P");
    let text = parts.next()?;
    let text = if partial {
        text.strip_suffix(b"\n").unwrap_or(text)
    } else {
        text
    };
    Some(Line {
        time,
        time_text,
        stdout,
        partial,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_and_partial_lines_are_told_apart() {
        let full = parse(b"2026-01-02T03:04:05.123456789Z stdout F hello  world\n").unwrap();
        assert_eq!(
            (full.text, full.partial, full.stdout),
            (b"hello  world\n".as_slice(), false, true)
        );
        let part = parse(b"2026-01-02T03:04:05.1+01:00 stderr P:x abc\n").unwrap();
        assert_eq!((part.text, part.partial, part.stdout), (b"abc".as_slice(), true, false));
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F \n").unwrap().text, b"\n");
        assert_eq!(parse(b"no log line\n"), None);
        assert_eq!(parse(b""), None);
    }
}
