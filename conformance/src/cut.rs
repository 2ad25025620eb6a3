//! Pulling a node's cable.

use std::process::Command;

use crate::Cluster;

/// A node without a network: nothing that it sends arrives anywhere, and nothing reaches it. Its cable is put back when
/// this is dropped.
pub struct Cut {
    cluster: Cluster,
    /// The bridge's end of the node's cable.
    link: String,
}

impl Cut {
    /// Cuts off a node by its name as `hack/up` gives it.
    ///
    /// # Panics
    /// When that cannot be done: it needs root, as `hack/up` does.
    #[must_use]
    pub fn off(cluster: &Cluster, node: &str) -> Self {
        let cut = Self {
            cluster: cluster.clone(),
            link: node.replace("node-", "n"),
        };
        assert!(cut.set("down"), "the cable of {node} cannot be cut");
        cut
    }

    fn set(&self, state: &str) -> bool {
        // The bridge lives in a network namespace of its own (hack/lib/network.sh).
        let set = Command::new("nsenter")
            .arg(format!("--net={}", self.cluster.network("fabric").display()))
            .args(["ip", "link", "set", &self.link, state])
            .status();
        set.is_ok_and(|status| status.success())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if !self.set("up") && !std::thread::panicking() {
            panic!("the cable {} stays cut", self.link);
        }
    }
}
