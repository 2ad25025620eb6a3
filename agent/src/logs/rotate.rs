//! Keeps logs small: a log over the limit is put aside and the runtime begins a new one.

use std::path::{Path, PathBuf};

use steersman_cri::Runtime;
use steersman_types::jiff::Timestamp;

/// Limits from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_size: u64,
    /// Files per container, the one being written included.
    pub max_files: usize,
}

/// Puts a running container's log aside if it is too long. Tells whether it did.
///
/// # Errors
/// When the file cannot be renamed or the runtime does not reopen it; the log then stays as it is.
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
    let aside = PathBuf::from(format!("{}.{}", log.display(), now.strftime("%Y%m%d-%H%M%S")));
    std::fs::rename(log, &aside).map_err(|e| e.to_string())?;
    if let Err(e) = runtime.reopen_log(id).await {
        // The runtime still writes to the old file: put it back.
        std::fs::rename(&aside, log).map_err(|e| e.to_string())?;
        return Err(e.to_string());
    }
    remove_old(log, limits.max_files);
    Ok(true)
}

/// Removes the oldest of the files that were put aside.
fn remove_old(log: &Path, max_files: usize) {
    let mut aside = put_aside(log);
    aside.sort();
    let keep = max_files.saturating_sub(1);
    let too_many = aside.len().saturating_sub(keep);
    for old in &aside[..too_many] {
        let _ = std::fs::remove_file(old);
    }
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
        assert_eq!(put_aside(&log).len(), 2);
        std::fs::write(&log, "short").unwrap();
        assert_eq!(rotate(&fake, "c", &log, limits, Timestamp::UNIX_EPOCH).await, Ok(false));
        assert_eq!(fake.calls().len(), 5);
    }
}
