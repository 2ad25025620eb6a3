//! A namespace of a test's own, removed when the test ends.

use crate::{Cluster, Kubectl, WEB_IMAGE, eventually};

/// A fresh namespace, in which pods can be created at once.
pub struct Namespace {
    pub name: String,
    pub cluster: Cluster,
    /// kubectl in this namespace.
    pub kubectl: Kubectl,
}

impl Namespace {
    /// `name` says whose it is; a suffix makes it unique.
    ///
    /// # Panics
    /// When the namespace cannot be made.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let cluster = Cluster::here();
        let name = format!("{name}-{:06x}", rand::random::<u32>() & 0xff_ffff);
        let admin = Kubectl::new(&cluster);
        let _ = admin.run(&format!("create namespace {name}")).ok();
        let kubectl = admin.in_namespace(&name);
        // Pods are refused until the controllers have made these.
        eventually("the default service account and the root CA", 30, || {
            let ready = kubectl.run("get serviceaccount/default configmap/kube-root-ca.crt -o name");
            if ready.code == 0 { Ok(()) } else { Err(ready.stderr) }
        });
        Self { name, cluster, kubectl }
    }

    /// A Deployment `web` of two pods, rolled out, behind port 80 of a Service of the same name; `flags` are those of
    /// `kubectl expose`.
    ///
    /// # Panics
    /// When kubectl refuses or the pods do not become ready.
    pub fn serve_web(&self, flags: &str) {
        let image = format!("create deployment web --image={WEB_IMAGE} --replicas=2");
        let service = format!("expose deployment web --port=80 --target-port=8080 {flags}");
        let rollout = "rollout status deployment/web --timeout=90s";
        for command in [image.as_str(), service.trim_end(), rollout] {
            let _ = self.kubectl.run(command).ok();
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let deletion = Kubectl::new(&self.cluster).run(&format!("delete namespace {} --wait=false", self.name));
        if deletion.code != 0 && !std::thread::panicking() {
            panic!("deleting namespace {}: {}", self.name, deletion.stderr);
        }
    }
}
