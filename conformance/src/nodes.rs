//! Who may say how many nodes the cluster has.
//!
//! Scenarios run side by side, in processes of their own. Some add a Node that is no machine, others count nodes, expect all
//! of them to be ready, or compare a sentence of the scheduler that has their number in it: not at the same time.

use std::fs::File;

use crate::Cluster;

/// Lasts until it is dropped, also by the end of the process.
pub struct Nodes {
    _locked: File,
}

impl Nodes {
    /// Nobody adds nodes meanwhile.
    ///
    /// # Panics
    /// When the file that everybody locks cannot be had.
    #[must_use]
    pub fn counted(cluster: &Cluster) -> Self {
        let file = Self::file(cluster);
        file.lock_shared().expect("a lock");
        Self { _locked: file }
    }

    /// Nobody counts nodes meanwhile, nor adds others.
    ///
    /// # Panics
    /// As [`Nodes::counted`].
    #[must_use]
    pub fn added(cluster: &Cluster) -> Self {
        let file = Self::file(cluster);
        file.lock().expect("a lock");
        Self { _locked: file }
    }

    fn file(cluster: &Cluster) -> File {
        let path = cluster.folder("locks").join("nodes");
        File::options()
            .create(true)
            .append(true)
            .open(path)
            .expect("a file to lock")
    }
}
