//! Several API servers: the death of one is nobody's.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use steersman_conformance::process::signal;
use steersman_conformance::{Cluster, Namespace, WEB_IMAGE, eventually};

const SERVERS: [&str; 2] = ["kube-apiserver", "kube-apiserver-2"];
/// What the death of a server may cost on top of the work itself.
const DELAY: Duration = Duration::from_secs(5);

/// A cluster with two API servers for as long as this lives; before and after it may have one.
struct Two {
    cluster: Cluster,
    had: bool,
}

impl Two {
    fn new() -> Self {
        let cluster = Cluster::here();
        let had = cluster.pid(SERVERS[1]).is_some();
        let two = Self { cluster, had };
        two.api_servers(2);
        two
    }

    fn api_servers(&self, count: usize) {
        // The same programs as now, wherever they came from.
        let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/up"))
            .args(["--no-build", "--apiservers", &count.to_string(), "--bin"])
            .arg(self.cluster.tool(""))
            .output()
            .expect("hack/up runs");
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        if !self.had && !std::thread::panicking() {
            self.api_servers(1);
        }
    }
}

/// A program that was killed and stays dead until this is dropped: what would start it again is stopped.
struct Dead(i32);

impl Dead {
    fn kill(cluster: &Cluster, name: &str) -> Self {
        let (supervisor, pid) = (cluster.supervisor(name), cluster.pid(name));
        let (supervisor, pid) = supervisor.zip(pid).expect("the program runs");
        signal(supervisor, libc::SIGSTOP);
        signal(pid, libc::SIGKILL);
        Self(supervisor)
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        signal(self.0, libc::SIGCONT);
    }
}

/// Work for everybody: a controller makes a pod per node, the scheduler places them, each node's agent starts one. How
/// long until all say that they are ready.
fn work(ns: &Namespace, name: &str) -> Duration {
    let begun = Instant::now();
    ns.kubectl.apply(&format!(
        "apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: c, image: '{WEB_IMAGE}'}}]
"
    ));
    let _ = ns
        .kubectl
        .run(&format!("rollout status daemonset/{name} --timeout=60s"))
        .ok();
    begun.elapsed()
}

#[test]
fn with_two_api_servers_the_death_of_either_costs_nobody_more_than_seconds() {
    let _alone = super::alone();
    let two = Two::new();
    let ns = Namespace::new("two");
    let programs = [
        "kube-controller-manager",
        "kube-scheduler",
        "node-1.kubelet",
        "node-2.kubelet",
        "cluster-dns",
    ];
    let running = || programs.map(|name| two.cluster.pid(name));
    let (before, usual) = (running(), work(&ns, "usual"));
    for server in SERVERS {
        let dead = Dead::kill(&two.cluster, server);
        let took = work(&ns, &format!("without-{server}"));
        println!("without {server}: {took:?}, usually {usual:?}");
        assert!(
            took < usual + DELAY,
            "without {server} it took {took:?}, usually {usual:?}"
        );
        drop(dead);
        let port = if server == SERVERS[0] { 6443 } else { 6444 };
        let ready = format!("--server https://127.0.0.1:{port} get --raw /readyz");
        eventually(&format!("{server} is ready again"), 30, || {
            let ready = ns.kubectl.run(&ready);
            if ready.code == 0 { Ok(()) } else { Err(ready.stderr) }
        });
    }
    assert_eq!(running(), before, "nobody lost a lease or had to start again");
}
