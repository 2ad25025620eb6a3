//! What the black-box suites share: the running cluster, stock kubectl, waiting for conditions.
//!
//! The suites (`tests/`, files named by what they touch) talk to the cluster that `hack/up` started the way a user does:
//! through kubectl and the API's wire. They know no crate of the product. A test makes its own namespace and waits for
//! conditions, never for time; a condition that does not come true fails with what was seen last.

pub mod cluster;
pub mod cut;
pub mod examples;
pub mod http;
pub mod kubectl;
pub mod maps;
pub mod namespace;
pub mod nodes;
pub mod process;
pub mod transcript;
pub mod wait;
pub mod watch;

pub use cluster::Cluster;
pub use cut::Cut;
pub use http::Http;
pub use kubectl::{Kubectl, Output};
pub use maps::Maps;
pub use namespace::Namespace;
pub use nodes::Nodes;
pub use wait::eventually;
pub use watch::Watch;

/// The test web server of `hack/images`: answers `GET /` with its host name and version.
pub const WEB_IMAGE: &str = "steersman.local/web:1";
/// The same program, built to answer with another version.
pub const WEB_IMAGE_2: &str = "steersman.local/web:2";
/// Debian's busybox, with a shell.
pub const BUSYBOX_IMAGE: &str = "busybox:1.36";

/// Path of a manifest of `conformance/manifests`.
#[must_use]
pub fn manifest(name: &str) -> String {
    format!("{}/manifests/{name}", env!("CARGO_MANIFEST_DIR"))
}
