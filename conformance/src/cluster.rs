//! Where the cluster of `hack/up` keeps what tests need.

use std::path::{Path, PathBuf};

/// The folder `.cluster` of a cluster that is up.
#[derive(Clone, Debug)]
pub struct Cluster {
    state: PathBuf,
}

impl Cluster {
    /// The cluster of this checkout, or the one that `STEERSMAN_STATE` names.
    ///
    /// # Panics
    /// When no cluster is up: a suite without a cluster has failed.
    #[must_use]
    pub fn here() -> Self {
        let state = std::env::var_os("STEERSMAN_STATE").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cluster"),
            PathBuf::from,
        );
        assert!(
            state.join("admin.kubeconfig").exists(),
            "no cluster is up in {}: run hack/up first",
            state.display()
        );
        Self { state }
    }

    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
    }

    /// A tool that the cluster uses, for instance `kubectl`, `etcdctl`, `ctr`.
    #[must_use]
    pub fn tool(&self, name: &str) -> PathBuf {
        self.state.join("bin").join(name)
    }

    #[must_use]
    pub fn pki(&self, name: &str) -> PathBuf {
        self.state.join("pki").join(name)
    }

    /// A program's log.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.state.join("logs").join(format!("{name}.log"))
    }

    /// A network namespace that `hack/up` made: of a node, or `fabric`, where the bridge between them is.
    #[must_use]
    pub fn network(&self, name: &str) -> PathBuf {
        self.state.join("run/ns").join(name)
    }

    /// A fresh folder of the machine that all nodes' pods can mount by its path.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.state.join("scratch").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder.canonicalize().expect("a path")
    }

    /// A file of a node's own, for instance `kubelet.yaml`, or in `static`, where its static pods are.
    #[must_use]
    pub fn of_node(&self, node: &str, file: &str) -> PathBuf {
        self.state.join("nodes").join(node).join(file)
    }

    /// Process id of what starts a program again whenever it ends, if it runs.
    #[must_use]
    pub fn supervisor(&self, name: &str) -> Option<i32> {
        let text = std::fs::read_to_string(self.state.join("run").join(format!("{name}.loop"))).ok()?;
        text.trim().parse().ok()
    }

    /// Process id of a program as `hack/up` names it (`kube-apiserver`, `etcd-1`, `node-1.kubelet`), if it runs.
    #[must_use]
    pub fn pid(&self, name: &str) -> Option<i32> {
        let text = std::fs::read_to_string(self.state.join("run").join(format!("{name}.pid"))).ok()?;
        let pid = text.trim().parse().ok()?;
        Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }
}
