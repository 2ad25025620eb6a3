//! A serving certificate that somebody else renews: its files are looked at, and taken into use when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steersman_runtime::serve::tls::{Changing, Serving};

const LOOK: Duration = Duration::from_secs(10);

/// When both files were changed last.
fn times(certificate: &Path, key: &Path) -> [Option<SystemTime>; 2] {
    [certificate, key].map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
}

/// Follows the files, forever. What does not fit together is not taken: the other file may be about to change.
pub async fn follow(certificate: PathBuf, key: PathBuf, current: Arc<Changing>) {
    let mut taken = times(&certificate, &key);
    loop {
        tokio::time::sleep(LOOK).await;
        let now = times(&certificate, &key);
        if now == taken || now.contains(&None) {
            continue;
        }
        match Serving::from_files(&certificate, &key).and_then(|new| current.set(&new)) {
            Ok(()) => {
                tracing::info!("Reloaded the serving certificate");
                taken = now;
            }
            Err(e) => tracing::warn!(error = e, "Failed to reload the serving certificate"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn new_files_are_taken_once_they_fit_together() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let write = |serving: &Serving| {
            std::fs::write(&certificate, &serving.certificate).unwrap();
            std::fs::write(&key, &serving.key).unwrap();
        };
        write(&Serving::self_signed(None, "first").unwrap());
        let current = Arc::<Changing>::default();
        tokio::spawn(follow(certificate.clone(), key.clone(), current.clone()));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!current.is_set(), "nothing changed");
        std::fs::write(&key, "no key").unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!current.is_set());
        write(&Serving::self_signed(None, "second").unwrap());
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(current.is_set());
    }
}
