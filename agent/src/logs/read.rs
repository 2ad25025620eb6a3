//! Reads a container's log as a stream of bytes: the last lines, from a time on, following what is still written.
//!
//! Follows a rotation: when the file at the path is another one, the rest of the old one is read, then the new one from
//! its start. Memory is bounded by one line's length, which is itself bounded.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use steersman_types::jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader, SeekFrom};
use tokio::sync::mpsc;

use super::line;

/// Blocks read backwards while looking for the last lines.
const BLOCK: u64 = 16 << 10;
/// Runtimes split lines at 16 KiB; a longer one is not a log line.
const MAX_LINE: u64 = 1 << 20;
/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(200);

/// What to read; a request's parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub timestamps: bool,
    /// Negative is none.
    pub tail: Option<i64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    /// Only this stream (`Stdout`, `Stderr`); both otherwise.
    pub only_stdout: Option<bool>,
}

/// Sends the log to `out` until its end; with `follow` until `finished` says that nothing more will come and the end is
/// reached, or the reader has gone.
///
/// # Errors
/// When the file cannot be opened or read.
pub async fn send(
    path: &Path,
    options: &LogOptions,
    finished: impl Fn() -> bool + Send,
    out: &mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let mut file = File::open(path).await?;
    let start = match options.tail {
        Some(lines) if lines >= 0 => tail_offset(&mut file, lines).await?,
        _ => 0,
    };
    let mut left = options.limit_bytes.unwrap_or(u64::MAX);
    let mut here = Position {
        path: path.to_owned(),
        reader: BufReader::new(file),
        offset: start,
    };
    here.reader.seek(SeekFrom::Start(start)).await?;
    let mut raw = Vec::new();
    let mut rotated = false;
    loop {
        // Asked before reading: what was written before the end is still read after it.
        let over = !options.follow || finished();
        raw.clear();
        let read = (&mut here.reader).take(MAX_LINE).read_until(b'\n', &mut raw).await?;
        if read > 0 && raw.last() == Some(&b'\n') {
            here.offset += read as u64;
            if let Some(chunk) = wanted(&raw, options) {
                let chunk = cut(chunk, &mut left);
                if !chunk.is_empty() && out.send(chunk).await.is_err() || left == 0 {
                    return Ok(());
                }
            }
            continue;
        }
        // At the end, or in the middle of a line that is still being written.
        here.reader.seek(SeekFrom::Start(here.offset)).await?;
        if rotated {
            here.reopen().await?;
            rotated = false;
            continue;
        }
        if here.is_replaced().await? {
            // What was written between our last read and the replacement is still in the old file: once more.
            rotated = true;
            continue;
        }
        if over || out.is_closed() {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

struct Position {
    path: PathBuf,
    reader: BufReader<File>,
    offset: u64,
}

impl Position {
    /// Does another file lie at the path now?
    async fn is_replaced(&self) -> std::io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let ours = self.reader.get_ref().metadata().await?;
        match tokio::fs::metadata(&self.path).await {
            Ok(there) => Ok((ours.dev(), ours.ino()) != (there.dev(), there.ino())),
            // Between rename and the runtime's reopening there is no file.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Goes on with the file that lies at the path, from its start.
    async fn reopen(&mut self) -> std::io::Result<()> {
        self.reader = BufReader::new(File::open(&self.path).await?);
        self.offset = 0;
        Ok(())
    }
}

fn wanted(raw: &[u8], options: &LogOptions) -> Option<Bytes> {
    let line = line::parse(raw)?;
    if options.since.is_some_and(|since| line.time < since) || options.only_stdout.is_some_and(|s| s != line.stdout) {
        return None;
    }
    if !options.timestamps {
        return Some(Bytes::copy_from_slice(line.text));
    }
    let mut text = Vec::with_capacity(line.time_text.len() + 1 + line.text.len());
    text.extend_from_slice(line.time_text.as_bytes());
    text.push(b' ');
    text.extend_from_slice(line.text);
    Some(text.into())
}

fn cut(mut chunk: Bytes, left: &mut u64) -> Bytes {
    let keep = usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.len());
    chunk.truncate(keep);
    *left -= keep as u64;
    chunk
}

/// Where the last `lines` lines begin.
async fn tail_offset(file: &mut File, lines: i64) -> std::io::Result<u64> {
    let end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(end);
    }
    let mut left = lines;
    let mut block_end = end;
    let mut block = vec![0_u8; usize::try_from(BLOCK).unwrap_or(0)];
    while block_end > 0 {
        let begin = block_end.saturating_sub(BLOCK);
        let len = usize::try_from(block_end - begin).unwrap_or(0);
        file.seek(SeekFrom::Start(begin)).await?;
        file.read_exact(&mut block[..len]).await?;
        for i in (0..len).rev() {
            let at = begin + i as u64;
            // The break at the very end closes the last line, it does not begin another.
            if block[i] == b'\n' && at + 1 != end {
                left -= 1;
                if left == 0 {
                    return Ok(at + 1);
                }
            }
        }
        block_end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn log(lines: &[&str]) -> String {
        lines
            .iter()
            .enumerate()
            .map(|(i, l)| format!("2026-01-01T00:00:{:02}Z stdout F {l}\n", i % 60))
            .collect()
    }

    async fn check(content: &str, options: LogOptions) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let (out, mut chunks) = mpsc::channel(1024);
        send(file.path(), &options, || true, &out).await.unwrap();
        drop(out);
        let mut all = Vec::new();
        while let Some(c) = chunks.recv().await {
            all.extend_from_slice(&c);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn tail_since_timestamps_and_limits_choose_what_is_sent() {
        let content = log(&["a", "b", "c"]);
        assert_eq!(check(&content, LogOptions::default()).await, "a\nb\nc\n");
        let tail = |n| LogOptions {
            tail: Some(n),
            ..Default::default()
        };
        assert_eq!(check(&content, tail(2)).await, "b\nc\n");
        assert_eq!(check(&content, tail(0)).await, "");
        assert_eq!(check(&content, tail(9)).await, "a\nb\nc\n");
        let since = Some("2026-01-01T00:00:01Z".parse().unwrap());
        assert_eq!(
            check(
                &content,
                LogOptions {
                    since,
                    ..Default::default()
                }
            )
            .await,
            "b\nc\n"
        );
        let stamped = LogOptions {
            timestamps: true,
            tail: Some(1),
            ..Default::default()
        };
        assert_eq!(check(&content, stamped).await, "2026-01-01T00:00:02Z c\n");
        assert_eq!(
            check(
                &content,
                LogOptions {
                    limit_bytes: Some(3),
                    ..Default::default()
                }
            )
            .await,
            "a\nb"
        );
        let long = log(&vec!["x".repeat(100).as_str(); 500]);
        assert_eq!(check(&long, tail(300)).await.len(), 300 * 101);
        let parts = "2026-01-01T00:00:00Z stdout P ab\n2026-01-01T00:00:00Z stdout F c\n";
        assert_eq!(check(parts, LogOptions::default()).await, "abc\n");
    }

    #[tokio::test]
    async fn following_goes_on_over_a_rotation_and_stops_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, log(&["a"])).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (out, mut chunks) = mpsc::channel(16);
        let (p, o) = (path.clone(), over.clone());
        let reader = tokio::spawn(async move {
            let options = LogOptions {
                follow: true,
                ..Default::default()
            };
            send(&p, &options, || o.load(Ordering::SeqCst), &out).await
        });
        assert_eq!(chunks.recv().await.unwrap(), "a\n");
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(log(&["b"]).as_bytes())
            .unwrap();
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, log(&["c"])).unwrap();
        assert_eq!(chunks.recv().await.unwrap(), "b\n");
        assert_eq!(chunks.recv().await.unwrap(), "c\n");
        over.store(true, Ordering::SeqCst);
        assert!(chunks.recv().await.is_none());
        reader.await.unwrap().unwrap();
    }
}
