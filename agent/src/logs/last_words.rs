//! The termination message: what a container left in its message file, or the end of its log.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::line;

/// Upstream's limits: 4 KiB from the file; from the log the last 80 lines, at most 2 KiB.
const MAX_MESSAGE: u64 = 4 << 10;
const MAX_LOG_BYTES: u64 = 2 << 10;
const MAX_LOG_LINES: usize = 80;

/// Reads the message of a container that ended. `from_log` is set when the policy is `FallbackToLogsOnError` and it
/// ended in an error: then an empty file means the log's end.
#[must_use]
pub fn read(message_file: Option<&Path>, log: &Path, from_log: bool) -> String {
    let text = match message_file.map(from_file) {
        Some(Ok(text)) => text,
        Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => {
            let path = message_file.unwrap_or(Path::new("")).display();
            format!("Error on reading termination log {path}: {e}")
        }
        _ => String::new(),
    };
    if text.is_empty() && from_log {
        log_end(log).unwrap_or_default()
    } else {
        text
    }
}

/// The last bytes of the file.
fn from_file(path: &Path) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&end_of(path, MAX_MESSAGE)?).into_owned())
}

fn end_of(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn log_end(path: &Path) -> std::io::Result<String> {
    // A log line carries its time and stream, so the file's end is read more generously than the message may be long.
    let bytes = end_of(path, MAX_LOG_BYTES * 8)?;
    let lines: Vec<_> = bytes.split_inclusive(|b| *b == b'\n').filter_map(line::parse).collect();
    let first = lines.len().saturating_sub(MAX_LOG_LINES);
    let text: Vec<u8> = lines[first..].iter().flat_map(|l| l.text.iter().copied()).collect();
    let cut = text.len().saturating_sub(usize::try_from(MAX_LOG_BYTES).unwrap_or(0));
    Ok(String::from_utf8_lossy(&text[cut..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_comes_first_and_the_log_only_on_errors() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("m"), dir.path().join("0.log"));
        std::fs::write(&log, "2026-01-01T00:00:00Z stderr F oops\n").unwrap();
        std::fs::write(&file, "").unwrap();
        assert_eq!(read(Some(&file), &log, false), "");
        assert_eq!(read(Some(&file), &log, true), "oops\n");
        std::fs::write(&file, "x".repeat(5000)).unwrap();
        assert_eq!(read(Some(&file), &log, true).len(), 4096);
        assert_eq!(read(None, &dir.path().join("none"), true), "");
    }
}
