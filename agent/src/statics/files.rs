//! Looks at the file or folder of static pods, and tells the node's pods what is there.
//!
//! Once a second the names, sizes and times are compared; what changed is read at once, and everything again each
//! `fileCheckFrequency`. A file that cannot be read as a pod is none, as upstream has it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use steersman_types::api::core::v1::Pod;
use steersman_types::jiff::Timestamp;

use super::manifest::{self, Origin};
use crate::pod;
use crate::pods::Pods;

const LOOK: Duration = Duration::from_secs(1);
/// Upstream's `maxConfigLength`.
const MAX_BYTES: u64 = 10 << 20;

/// Device, inode, size and time of the last change of each file.
type Look = BTreeMap<PathBuf, (u64, u64, u64, i64, i64)>;

/// Watches forever.
pub async fn run(path: PathBuf, node: String, every: Duration, pods: Arc<Pods>) {
    let mut looked: Option<(Look, Instant)> = None;
    let mut known: Vec<Arc<Pod>> = Vec::new();
    loop {
        let now = look(&path);
        let due = looked
            .as_ref()
            .is_none_or(|(before, at)| *before != now || at.elapsed() >= every);
        if due {
            known = read(&now, &node, &known);
            looked = Some((now, Instant::now()));
        }
        // Also without a change: a new version waits for the end of the one before.
        pods.set_static(pod::FILE, &known);
        tokio::time::sleep(LOOK).await;
    }
}

/// A folder's files whose names do not begin with a dot, or the file itself.
fn look(path: &Path) -> Look {
    let files: Vec<PathBuf> = if path.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let visible = entries.filter(|e| !e.file_name().to_string_lossy().starts_with('.'));
        visible.map(|e| e.path()).collect()
    } else {
        vec![path.to_owned()]
    };
    let one = |file: PathBuf| {
        let meta = std::fs::metadata(&file).ok().filter(std::fs::Metadata::is_file)?;
        Some((
            file,
            (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()),
        ))
    };
    files.into_iter().filter_map(one).collect()
}

/// The pods of all files; one that is known already stays the same object.
fn read(files: &Look, node: &str, known: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let mut all: Vec<Arc<Pod>> = Vec::new();
    for (file, (.., size, _, _)) in files {
        let text = if *size > MAX_BYTES {
            Err(format!("it has {size} bytes, more than {MAX_BYTES}"))
        } else {
            std::fs::read_to_string(file).map_err(|e| e.to_string())
        };
        let origin = file.display().to_string();
        let parsed = text.and_then(|text| manifest::parse(&text, Origin::File(&origin), node, Timestamp::now()));
        let new = match parsed {
            Ok(pod) => pod,
            Err(e) => {
                tracing::error!(path = origin, error = e, "Could not process manifest file");
                continue;
            }
        };
        let same_name = |p: &&Arc<Pod>| pod::name(p) == pod::name(&new) && pod::namespace(p) == pod::namespace(&new);
        if all.iter().any(|p| same_name(&p)) {
            tracing::error!(
                path = origin,
                pod = pod::name(&new),
                "Another manifest file holds a pod of this name"
            );
            continue;
        }
        let before = known.iter().find(|p| pod::uid(p) == pod::uid(&new));
        all.push(before.cloned().unwrap_or_else(|| Arc::new(new)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, image: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: {image}}}]}}\n"
        )
    }

    #[test]
    fn changes_of_files_are_seen_and_what_is_no_pod_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a.yaml", &manifest("a", "i:1"));
        write(".hidden.yaml", &manifest("h", "i:1"));
        write("twice.yaml", &manifest("a", "i:2"));
        write("broken.yaml", "kind: [");
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let first = look(dir.path());
        assert_eq!(first.len(), 3);
        let pods = read(&first, "n", &[]);
        assert_eq!(pods.iter().map(|p| pod::name(p)).collect::<Vec<_>>(), ["a-n"]);
        assert_eq!(look(dir.path()), first);
        let again = read(&first, "n", &pods);
        assert!(Arc::ptr_eq(&again[0], &pods[0]), "seen once");
        write("a.yaml", &manifest("a", "i:33"));
        let second = look(dir.path());
        assert_ne!(second, first);
        assert_ne!(pod::uid(&read(&second, "n", &pods)[0]), pod::uid(&pods[0]));
        assert_eq!(look(&dir.path().join("a.yaml")).len(), 1, "a path can be a file");
        assert!(look(&dir.path().join("none")).is_empty());
    }
}
