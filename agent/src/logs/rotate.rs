//! Keeps logs small: a log over the limit is put aside and the runtime begins a new one.

use std::io;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use steersman_cri::Runtime;
use steersman_types::jiff::Timestamp;

/// Limits from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_size: u64,
    /// Files per container, the one being written included.
    pub max_files: usize,
}

/// Puts a running container's log aside if it is too long. Tells whether it did. Those that were put aside before are
/// compressed: only the last one can still be read by somebody.
///
/// # Errors
/// When a file cannot be renamed or compressed, or the runtime does not reopen it; the log then stays as it is.
pub async fn rotate(
    runtime: &dyn Runtime,
    id: &str,
    log: &Path,
    limits: Limits,
    now: Timestamp,
) -> Result<bool, String> {
    if !std::fs::metadata(log).is_ok_and(|m| m.len() >= limits.max_size) {
        return Ok(false);
    }
    let before = log.to_owned();
    let cleaned = tokio::task::spawn_blocking(move || clean(&before, limits.max_files)).await;
    cleaned.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let aside = PathBuf::from(format!("{}.{}", log.display(), now.strftime("%Y%m%d-%H%M%S")));
    std::fs::rename(log, &aside).map_err(|e| e.to_string())?;
    if let Err(e) = runtime.reopen_log(id).await {
        // The runtime still writes to the old file: put it back.
        std::fs::rename(&aside, log).map_err(|e| e.to_string())?;
        return Err(e.to_string());
    }
    Ok(true)
}

/// Makes room for one more: removes the oldest and what an earlier attempt left, compresses the rest.
fn clean(log: &Path, max_files: usize) -> io::Result<()> {
    let (left, mut aside): (Vec<PathBuf>, Vec<PathBuf>) = put_aside(log).into_iter().partition(|p| ends(p, "tmp"));
    for file in left {
        std::fs::remove_file(file)?;
    }
    aside.sort();
    // Beside those there are the one being written and the one that is put aside next.
    let too_many = aside.len().saturating_sub(max_files.saturating_sub(2));
    for (i, file) in aside.iter().enumerate() {
        if i < too_many {
            std::fs::remove_file(file)?;
        } else if !ends(file, "gz") {
            compress(file)?;
        }
    }
    Ok(())
}

fn ends(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e == extension)
}

/// `x` becomes `x.gz`, whole or not at all.
fn compress(file: &Path) -> io::Result<()> {
    let with = |extension: &str| PathBuf::from(format!("{}.{extension}", file.display()));
    let mut from = std::fs::File::open(file)?;
    let mut to = GzEncoder::new(std::fs::File::create(with("tmp"))?, Compression::default());
    io::copy(&mut from, &mut to)?;
    to.finish()?.sync_all()?;
    std::fs::rename(with("tmp"), with("gz"))?;
    std::fs::remove_file(file)
}

/// The files that were put aside for this log.
#[must_use]
pub fn put_aside(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_cri::fake::Fake;

    #[tokio::test]
    async fn a_long_log_is_put_aside_and_only_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let limits = Limits {
            max_size: 10,
            max_files: 3,
        };
        let fake = Fake::default();
        for i in 0..5 {
            std::fs::write(&log, "0123456789").unwrap();
            let now = Timestamp::from_second(i).unwrap();
            assert_eq!(rotate(&fake, "c", &log, limits, now).await, Ok(true));
        }
        let mut aside = put_aside(&log);
        aside.sort();
        let names: Vec<_> = aside
            .iter()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            names,
            ["0.log.19700101-000003.gz", "0.log.19700101-000004"],
            "with the current one there are three"
        );
        let mut text = String::new();
        let file = std::fs::File::open(&aside[0]).unwrap();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
        assert_eq!(text, "0123456789");
        std::fs::write(&log, "short").unwrap();
        assert_eq!(rotate(&fake, "c", &log, limits, Timestamp::UNIX_EPOCH).await, Ok(false));
        assert_eq!(fake.calls().len(), 5);
    }
}
