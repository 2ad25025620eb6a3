//! Nodes that are cut off, come back, are deleted, and register again. What has to be waited for (the grace period of 50
//! seconds, the 40 seconds until a node's absence is believed) is waited for once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use steersman_conformance::process::{first_in_container, in_container, kill_and_wait};
use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Cut, Http, Kubectl, Namespace, WEB_IMAGE, eventually};

/// Upstream's grace period for silent nodes, and what a busy machine may add.
const SILENCE: Duration = Duration::from_secs(50 + 2);
const NODE: &str = "node-2";
const OTHER: &str = "node-1";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Tolerations of the two taints of lost nodes; `seconds` as YAML, empty for ever.
fn tolerations(seconds: &str) -> String {
    let one = |key: &str| {
        let seconds = if seconds.is_empty() {
            String::new()
        } else {
            format!(", tolerationSeconds: {seconds}")
        };
        format!("{{key: node.kubernetes.io/{key}, operator: Exists, effect: NoExecute{seconds}}}")
    };
    format!("[{}, {}]", one("unreachable"), one("not-ready"))
}

/// Wishes for one of the two nodes.
fn rather(node: &str) -> String {
    let term = format!("{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}");
    format!(
        "{{nodeAffinity: {{preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 100, preference: {term}}}]}}}}"
    )
}

/// A Deployment and a StatefulSet that leave a lost node after three seconds, a pod that leaves after ten, and one that
/// stays. The StatefulSet's pod writes its UID to `ticks/log` five times a second.
fn workloads(ticks: &str) -> String {
    let wish = rather(NODE);
    let (soon, late, never) = (tolerations("3"), tolerations("10"), tolerations(""));
    let tick = "while :; do echo $UID_ >> /ticks/log; sleep 0.2; done";
    let pod = |name: &str, tolerations: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {NODE}
  terminationGracePeriodSeconds: 1
  tolerations: {tolerations}
  containers: [{{name: c, image: '{WEB_IMAGE}'}}]
"
        )
    };
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity: {wish}
      tolerations: {soon}
      containers: [{{name: c, image: '{WEB_IMAGE}'}}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: 1
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity: {wish}
      tolerations: {soon}
      volumes: [{{name: ticks, hostPath: {{path: '{ticks}'}}}}]
      containers:
      - name: c
        image: busybox:1.36
        command: [sh, -c, '{tick}']
        env: [{{name: UID_, valueFrom: {{fieldRef: {{fieldPath: metadata.uid}}}}}}]
        volumeMounts: [{{name: ticks, mountPath: /ticks}}]
{}{}",
        pod("late", &late),
        pod("stays", &never)
    )
}

/// What a test needs to know of a pod.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    uid: String,
    node: String,
    container: String,
    restarts: u64,
    ready: bool,
    leaving: bool,
}

struct Cluster {
    ns: Namespace,
    admin: Kubectl,
    ticks: PathBuf,
}

impl Cluster {
    fn new() -> Self {
        let ns = Namespace::new("cut");
        let ticks = ns.cluster.folder(&ns.name);
        Self {
            admin: Kubectl::new(&ns.cluster),
            ns,
            ticks,
        }
    }

    /// All pods by name.
    fn pods(&self) -> BTreeMap<String, Seen> {
        let list = self.ns.kubectl.get("pods");
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        let text = |v: &Value, at: &str| v.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let seen = pods.iter().map(|pod| {
            let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
            let seen = Seen {
                uid: text(pod, "/metadata/uid"),
                node: text(pod, "/spec/nodeName"),
                container: text(pod, "/status/containerStatuses/0/containerID"),
                restarts: pod
                    .pointer("/status/containerStatuses/0/restartCount")
                    .and_then(Value::as_u64)
                    .unwrap_or_default(),
                ready: conditions
                    .into_iter()
                    .flatten()
                    .any(|c| c["type"] == "Ready" && c["status"] == "True"),
                leaving: pod.pointer("/metadata/deletionTimestamp").is_some(),
            };
            (text(pod, "/metadata/name"), seen)
        });
        seen.collect()
    }

    fn pod(&self, name: &str) -> Option<Seen> {
        self.pods().remove(name)
    }

    /// The Deployment's pods.
    fn web(&self) -> Vec<Seen> {
        let all = self.pods().into_iter();
        all.filter(|(name, _)| name.starts_with("web-"))
            .map(|(_, pod)| pod)
            .collect()
    }

    /// Status and reason of the node's Ready condition.
    fn ready(&self) -> (String, String) {
        let node = self.node();
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
        let field = |name: &str| ready.and_then(|c| c[name].as_str()).unwrap_or_default().to_owned();
        (field("status"), field("reason"))
    }

    fn node(&self) -> Value {
        let output = self.admin.run(&format!("get node {NODE} -o json"));
        serde_json::from_str(&output.stdout).unwrap_or_default()
    }

    /// `key:effect` of the node's taints.
    fn taints(&self) -> BTreeSet<String> {
        let node = self.node();
        let taints = node.pointer("/spec/taints").and_then(Value::as_array).cloned();
        let name = |t: &Value| Some(format!("{}:{}", t["key"].as_str()?, t["effect"].as_str()?));
        taints.into_iter().flatten().filter_map(|t| name(&t)).collect()
    }

    /// UIDs in the order in which they ticked, each run of the same one once.
    fn owners(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.ticks.join("log")).unwrap_or_default();
        let mut owners: Vec<String> = log.lines().map(str::to_owned).collect();
        owners.dedup();
        owners
    }

    fn ticks(&self) -> usize {
        let log = std::fs::read_to_string(self.ticks.join("log")).unwrap_or_default();
        log.lines().count()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.ticks);
    }
}

/// A node that never existed but as an object, with a pod on it that nobody will ever start.
struct Ghost {
    http: Http,
    name: String,
    pod: String,
}

impl Ghost {
    fn haunt(ns: &Namespace) -> Self {
        let http = Http::admin(&ns.cluster);
        let name = format!("ghost-{}", ns.name);
        let pod = format!("/api/v1/namespaces/{}/pods/haunted", ns.name);
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        let haunted = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "haunted"},
            "spec": {"nodeName": name, "containers": [{"name": "c", "image": WEB_IMAGE}]}});
        let _ = http.json("POST", "/api/v1/nodes", "application/json", &node).ok();
        let pods = pod.trim_end_matches("/haunted");
        let _ = http.json("POST", pods, "application/json", &haunted).ok();
        Self { http, name, pod }
    }

    fn vanish(&self) {
        let path = format!("/api/v1/nodes/{}", self.name);
        let _ = self.http.json("DELETE", &path, "application/json", &Value::Null);
    }
}

impl Drop for Ghost {
    fn drop(&mut self) {
        self.vanish();
    }
}

#[test]
fn a_node_that_is_cut_off_loses_its_pods_after_their_time_and_is_whole_again_when_it_returns() {
    let _alone = super::alone();
    let c = Cluster::new();
    c.ns.kubectl.apply(&workloads(&c.ticks.display().to_string()));
    eventually("all six pods are ready on the node", 90, || {
        let pods = c.pods();
        let there = pods.values().filter(|p| p.ready && p.node == NODE).count();
        if there == 6 && pods.len() == 6 {
            Ok(())
        } else {
            Err(pods)
        }
    });
    eventually("the StatefulSet's pod ticks", 10, || match c.ticks() {
        0 => Err(()),
        _ => Ok(()),
    });
    let before = c.pods();
    let processes: BTreeMap<_, _> = before
        .values()
        .map(|p| (p.container.clone(), first_in_container(&p.container)))
        .collect();
    assert!(processes.values().all(Option::is_some), "{processes:?}");
    let ghost = Ghost::haunt(&c.ns);

    let cut = Cut::off(&c.ns.cluster, NODE);
    let begun = Instant::now();
    ghost.vanish();
    eventually_eq(
        "nothing is known of the node",
        60,
        ("Unknown", "NodeStatusUnknown"),
        || {
            let (status, reason) = c.ready();
            match (status.as_str(), reason.as_str()) {
                ("Unknown", "NodeStatusUnknown") => ("Unknown", "NodeStatusUnknown"),
                _ => ("", ""),
            }
        },
    );
    let silent = begun.elapsed();
    assert!(silent < SILENCE, "it took {silent:?}");
    let both = ["NoExecute", "NoSchedule"].map(|effect| format!("{UNREACHABLE}:{effect}"));
    eventually_eq("both taints", 10, BTreeSet::from(both), || c.taints());
    eventually("new pods are ready elsewhere", 30, || {
        let web = c.web();
        let there = web.iter().filter(|p| p.ready && p.node == OTHER && !p.leaving).count();
        if there == 3 { Ok(()) } else { Err(web) }
    });
    let late = c.pod("late").expect("it has ten seconds");
    assert!(
        !late.leaving || begun.elapsed() > silent + Duration::from_secs(9),
        "{late:?}"
    );
    assert!(!late.ready, "nobody knows whether it serves");
    eventually("the pod that had ten seconds leaves", 20, || match c.pod("late") {
        Some(pod) if !pod.leaving => Err(pod),
        _ => Ok(()),
    });
    let (db, stays) = (c.pod("db-0").expect("it leaves"), c.pod("stays").expect("it stays"));
    assert!(db.leaving && db.uid == before["db-0"].uid, "{db:?}");
    assert!(!stays.leaving && stays.uid == before["stays"].uid, "{stays:?}");
    let still = |container: &String| first_in_container(container) == processes[container];
    assert!(processes.keys().all(still), "without an API server pods go on");
    eventually("the pod of a node that is gone is collected", 60, || {
        match ghost.http.get(&ghost.pod).code {
            404 => Ok(()),
            code => Err(code),
        }
    });

    let ticks = c.ticks();
    drop(cut);
    let back = Instant::now();
    eventually_eq("the node is ready again", 30, "True".to_owned(), || c.ready().0);
    eventually_eq("no taints", 10, BTreeSet::new(), || c.taints());
    eventually("everything is there, and once", 60, || {
        let pods = c.pods();
        let names: Vec<&str> = pods.keys().map(String::as_str).collect();
        let sound = pods.values().all(|p| p.ready && !p.leaving) && names.len() == 5;
        if sound && names.contains(&"db-0") && names.contains(&"stays") {
            Ok(())
        } else {
            Err(pods)
        }
    });
    println!("silent after {silent:?}, whole after {:?}", back.elapsed());
    let after = c.pods();
    assert_eq!(
        after["stays"], before["stays"],
        "it neither restarted nor lost its readiness for good"
    );
    assert!(still(&before["stays"].container));
    eventually("what was evicted has ended", 10, || {
        let gone = before.iter().filter(|(name, _)| *name != "stays");
        let left: Vec<&String> = gone
            .filter(|(_, pod)| !in_container(&pod.container).is_empty())
            .map(|(name, _)| name)
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.into_iter().cloned().collect::<Vec<_>>())
        }
    });
    eventually("the new pod ticks", 10, || {
        if c.owners().len() > 1 { Ok(()) } else { Err(()) }
    });
    let owners = [before["db-0"].uid.clone(), after["db-0"].uid.clone()];
    assert_eq!(c.owners(), owners, "never two at a time, and no third");
    assert!(
        c.ticks() > ticks,
        "it went on ticking while it was cut off, until it was told to leave"
    );

    // A node's object is deleted; when its agent starts again it registers, and finds its pods.
    let uid = c.node()["metadata"]["uid"].clone();
    let _ = c.admin.run(&format!("delete node {NODE}")).ok();
    kill_and_wait(&c.ns.cluster, &format!("{NODE}.kubelet"));
    eventually("the node registers again", 30, || {
        let node = c.node();
        let new = !node["metadata"]["uid"].is_null() && node["metadata"]["uid"] != uid;
        if new && c.ready().0 == "True" {
            Ok(())
        } else {
            Err(node["metadata"].clone())
        }
    });
    let again = c.pod("stays").expect("it was not collected");
    assert_eq!((again.uid, again.container), (stays.uid, stays.container));
    assert!(still(&before["stays"].container));
}

#[test]
fn an_agent_that_starts_without_an_api_server_touches_no_container() {
    let _alone = super::alone();
    let ns = Namespace::new("alone");
    ns.kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{nodeName: {NODE}, containers: [{{name: c, image: '{WEB_IMAGE}'}}]}}}}"
    ));
    let _ = ns.kubectl.run("wait pod/p --for=condition=Ready --timeout=60s").ok();
    let before = super::containers(&ns);
    let processes = in_container(before[0].1.as_str().unwrap_or_default());
    assert!(!processes.is_empty(), "{before:?}");
    let kubelet = format!("{NODE}.kubelet");
    let log = ns.cluster.log(&kubelet);
    let length = || std::fs::metadata(&log).map_or(0, |m| m.len());
    let cut = Cut::off(&ns.cluster, NODE);
    let said = usize::try_from(length()).unwrap_or(usize::MAX);
    kill_and_wait(&ns.cluster, &kubelet);
    eventually("the new agent has tried to register", 30, || {
        let text = std::fs::read(&log).unwrap_or_default();
        let new = String::from_utf8_lossy(text.get(said..).unwrap_or_default()).into_owned();
        if new.contains("Unable to register node with API server") {
            Ok(())
        } else {
            Err(new)
        }
    });
    assert_eq!(in_container(before[0].1.as_str().unwrap_or_default()), processes);
    drop(cut);
    // Only an agent that works makes a pod ready.
    ns.kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: probe}}, spec: {{nodeName: {NODE}, containers: [{{name: c, image: '{WEB_IMAGE}'}}]}}}}"
    ));
    let _ = ns
        .kubectl
        .run("wait pod/probe --for=condition=Ready --timeout=60s")
        .ok();
    assert_eq!(in_container(before[0].1.as_str().unwrap_or_default()), processes);
    let after = super::containers(&ns);
    assert!(after.contains(&before[0]), "{after:?}");
}
