//! Making a cluster ready for the suite, and clean again between its parts, through kubectl.
//!
//! It adds one idle pod per node and removes what earlier, interrupted tests left behind (namespaces that carry the suite's
//! label, and webhooks and aggregated APIs that lead into them). It changes nothing else, and tests never depend on it:
//! without it they are slower, or fail for what was there before.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Namespaces of the suite's tests carry it.
const LABEL: &str = "e2e-run";
const READY: Duration = Duration::from_secs(60);
const GONE: Duration = Duration::from_secs(300);
/// After so long, what remains in a namespace is looked at.
const HELD: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(500);
/// The suite looks on every node for running pods with these three words in their names, and without them waits a minute in
/// each test that asks for a healthy cluster.
const IDLE: &str = "kube-proxy-fluentd-elasticsearch-node-problem-detector";

/// kubectl with the administrator's rights.
#[derive(Clone, Debug)]
pub struct Kubectl {
    pub program: PathBuf,
    pub kubeconfig: PathBuf,
    /// Where it keeps what it learned about servers.
    pub home: PathBuf,
}

impl Kubectl {
    async fn run(&self, args: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--request-timeout=30s")
            .args(args)
            .env("HOME", &self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await.context("writing to kubectl")?;
        }
        let output = child.wait_with_output().await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}", args.join(" "), error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The objects of a kind, of all namespaces or those of a label.
    async fn list(&self, kind: &str, more: &[&str]) -> Result<Vec<Value>> {
        let text = self.run(&[&["get", kind, "-o", "json"], more].concat(), "").await?;
        let mut list: Value = serde_json::from_str(&text).with_context(|| format!("what kubectl says of {kind}"))?;
        Ok(match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        })
    }

    /// What the server says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn server(&self) -> Result<String> {
        let text = self.run(&["get", "--raw", "/version"], "").await?;
        let version: Value = serde_json::from_str(&text)?;
        Ok(
            format!("{} {}", string(&version["gitVersion"]), string(&version["gitCommit"]))
                .trim()
                .to_owned(),
        )
    }
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Waits for the API server, and returns the nodes that pods can be scheduled to.
///
/// # Errors
/// When there are fewer than two: the suite needs them.
pub async fn nodes(kubectl: &Kubectl) -> Result<Vec<String>> {
    wait_until(READY, "API server ready", || async {
        kubectl.run(&["get", "--raw", "/readyz"], "").await.map(drop)
    })
    .await?;
    let mut names = Vec::new();
    let wanted = || async {
        let nodes = kubectl.list("nodes", &[]).await?;
        let ready: Vec<String> = nodes
            .iter()
            .filter(|node| usable(node))
            .map(|node| string(&node["metadata"]["name"]).to_owned())
            .collect();
        ensure!(
            ready.len() >= 2,
            "{} of {} nodes are ready, schedulable and without taints",
            ready.len(),
            nodes.len()
        );
        ensure!(
            ready.len() == nodes.len(),
            "only {} of {} nodes are ready, schedulable and without taints",
            ready.len(),
            nodes.len()
        );
        Ok(ready)
    };
    wait_for(READY, "two nodes or more, all of them ready", wanted, &mut names).await?;
    Ok(names)
}

/// Ready, schedulable, without a taint that keeps pods away.
fn usable(node: &Value) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let ready = list(&node["status"]["conditions"])
        .iter()
        .any(|c| c["type"] == "Ready" && c["status"] == "True");
    let tainted = list(&node["spec"]["taints"])
        .iter()
        .any(|taint| taint["effect"] != "PreferNoSchedule");
    ready && !tainted && node["spec"]["unschedulable"] != json!(true)
}

/// Starts the idle pods, and waits until they run.
///
/// # Errors
/// When they cannot be made. That they do not run in time is only said: some tests will take longer.
pub async fn idle_pods(kubectl: &Kubectl, nodes: &[String]) -> Result<()> {
    let have: BTreeSet<String> = kubectl
        .list("pods", &["-n", "kube-system"])
        .await?
        .iter()
        .map(|pod| string(&pod["metadata"]["name"]).to_owned())
        .collect();
    for node in nodes {
        let name = format!("{IDLE}-{node}");
        if have.contains(&name) {
            continue;
        }
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {
                "nodeName": node, "priorityClassName": "system-node-critical", "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10.2"}]
            }
        });
        kubectl.run(&["create", "-f", "-"], &pod.to_string()).await?;
    }
    let running = || async {
        let pods = kubectl.list("pods", &["-n", "kube-system"]).await?;
        let waiting: Vec<&str> = pods
            .iter()
            .filter(|pod| pod["status"]["phase"] != "Running")
            .map(|pod| string(&pod["metadata"]["name"]))
            .collect();
        ensure!(waiting.is_empty(), "not running: {}", waiting.join(", "));
        Ok(())
    };
    if let Err(error) = wait_until(READY, "pods of kube-system running", running).await {
        println!("{error:#}: the suite waits for them too, and may refuse to begin");
    }
    Ok(())
}

/// Names images of the suite that a node does not have; they would have to be pulled.
///
/// # Errors
/// When the binary or the API server does not answer.
pub async fn missing_images(kubectl: &Kubectl, binary: &std::path::Path) -> Result<Vec<String>> {
    let output = Command::new(binary).arg("--list-images").output().await?;
    ensure!(
        output.status.success(),
        "{} --list-images: {}",
        binary.display(),
        output.status
    );
    let wanted: BTreeSet<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    let mut missing = wanted;
    for node in kubectl.list("nodes", &[]).await? {
        let images = node["status"]["images"].as_array().cloned().unwrap_or_default();
        let has: BTreeSet<&str> = images
            .iter()
            .flat_map(|image| image["names"].as_array().into_iter().flatten())
            .map(string)
            .collect();
        missing.retain(|image| !has.contains(image.as_str()));
    }
    Ok(missing.into_iter().collect())
}

/// Removes what interrupted tests left, and waits until the namespaces of all tests are gone.
///
/// # Errors
/// When the API server does not answer. Namespaces that stay are only named: the tests that follow show what it costs.
pub async fn clear(kubectl: &Kubectl) -> Result<()> {
    let (mut left, begun) = (Vec::new(), Instant::now());
    let gone = || async {
        let namespaces = kubectl.list("namespaces", &["-l", LABEL]).await?;
        let names: Vec<String> = namespaces
            .iter()
            .map(|ns| string(&ns["metadata"]["name"]).to_owned())
            .collect();
        let fresh = namespaces
            .iter()
            .any(|ns| ns["metadata"]["deletionTimestamp"].is_null());
        if fresh {
            remove(kubectl, &names).await?;
        } else if begun.elapsed() > HELD {
            for namespace in &namespaces {
                let_go(kubectl, namespace).await?;
            }
        }
        ensure!(
            names.is_empty(),
            "{} test namespaces are still there: {}",
            names.len(),
            names.join(", ")
        );
        Ok(Vec::<String>::new())
    };
    if let Err(error) = wait_for(GONE, "namespaces of tests gone", gone, &mut left).await {
        println!("{error:#}");
    }
    Ok(())
}

/// Deletes namespaces, and before them what calls into them: their end would break what asks everybody.
async fn remove(kubectl: &Kubectl, namespaces: &[String]) -> Result<()> {
    for kind in [
        "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
        "apiservices",
    ] {
        // A cluster that does not serve the kind has none to remove.
        let objects = kubectl.list(kind, &[]).await.unwrap_or_default();
        for object in objects.iter().filter(|object| leads_into(object, namespaces)) {
            let name = string(&object["metadata"]["name"]);
            println!("removing {kind}/{name}, left by an interrupted test");
            kubectl
                .run(&["delete", kind, name, "--ignore-not-found", "--wait=false"], "")
                .await?;
        }
    }
    println!("removing {} namespaces of earlier tests", namespaces.len());
    let names: Vec<&str> = namespaces.iter().map(String::as_str).collect();
    kubectl
        .run(
            &[
                &["delete", "namespaces", "--ignore-not-found", "--wait=false"],
                names.as_slice(),
            ]
            .concat(),
            "",
        )
        .await?;
    Ok(())
}

/// Takes the tests' own finalizers off what remains in a namespace that is going: an interrupted test does not come back
/// for them.
async fn let_go(kubectl: &Kubectl, namespace: &Value) -> Result<()> {
    let name = string(&namespace["metadata"]["name"]);
    for kind in remaining_kinds(namespace) {
        for object in kubectl.list(&kind, &["-n", name]).await? {
            let finalizers: Vec<&str> = object["metadata"]["finalizers"]
                .as_array()
                .into_iter()
                .flatten()
                .map(string)
                .collect();
            let kept: Vec<&str> = finalizers
                .iter()
                .copied()
                .filter(|finalizer| !is_of_a_test(finalizer))
                .collect();
            if kept.len() < finalizers.len() {
                let (own, patch) = (
                    string(&object["metadata"]["name"]),
                    json!({"metadata": {"finalizers": kept}}),
                );
                println!("taking finalizers off {kind}/{own} in {name}, left by an interrupted test");
                kubectl
                    .run(
                        &[
                            "patch",
                            &kind,
                            own,
                            "-n",
                            name,
                            "--type=merge",
                            "-p",
                            &patch.to_string(),
                        ],
                        "",
                    )
                    .await?;
            }
        }
    }
    Ok(())
}

/// Finalizers that nobody in a cluster looks after.
fn is_of_a_test(finalizer: &str) -> bool {
    finalizer
        .split_once('/')
        .is_some_and(|(domain, _)| domain.ends_with("example.com"))
}

/// Kinds of which a namespace that is going says that objects remain: `pods. has 1 resource instances`.
fn remaining_kinds(namespace: &Value) -> Vec<String> {
    let conditions = namespace["status"]["conditions"].as_array().into_iter().flatten();
    let messages = conditions
        .filter(|c| c["type"] == "NamespaceContentRemaining")
        .map(|c| string(&c["message"]));
    let words: Vec<&str> = messages.flat_map(str::split_whitespace).collect();
    words
        .windows(2)
        .filter(|pair| pair[1] == "has")
        .map(|pair| pair[0].trim_end_matches('.').to_owned())
        .collect()
}

/// Whether a webhook configuration or an aggregated API calls a service in one of the namespaces.
fn leads_into(object: &Value, namespaces: &[String]) -> bool {
    let webhooks = object["webhooks"].as_array().into_iter().flatten();
    webhooks
        .map(|webhook| &webhook["clientConfig"]["service"]["namespace"])
        .chain([&object["spec"]["service"]["namespace"]])
        .any(|namespace| namespaces.iter().any(|name| namespace == name))
}

async fn wait_until<F: Future<Output = Result<()>>>(
    limit: Duration,
    what: &str,
    condition: impl Fn() -> F,
) -> Result<()> {
    wait_for(limit, what, condition, &mut ()).await
}

/// Waits for a condition and stores its value; fails with what it said last.
async fn wait_for<T, F: Future<Output = Result<T>>>(
    limit: Duration,
    what: &str,
    condition: impl Fn() -> F,
    value: &mut T,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match condition().await {
            Ok(seen) => {
                *value = seen;
                return Ok(());
            }
            Err(error) if Instant::now() >= deadline => bail!("{what}: not within {} s: {error:#}", limit.as_secs()),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_a_taint_or_without_readiness_is_not_usable() {
        let node = |ready: &str, effect: &str| {
            json!({"spec": {"taints": [{"key": "k", "effect": effect}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        assert!(usable(&node("True", "PreferNoSchedule")));
        assert!(!usable(&node("True", "NoExecute")));
        assert!(!usable(&node("Unknown", "PreferNoSchedule")));
        assert!(!usable(&json!({})));
    }

    #[test]
    fn what_holds_a_namespace_is_read_from_its_condition() {
        let message =
            "Some resources are remaining: pods. has 1 resource instances, foos.example.com has 2 resource instances";
        let namespace = json!({"status": {"conditions": [
            {"type": "NamespaceContentRemaining", "message": message},
            {"type": "NamespaceFinalizersRemaining", "message": "x has 1"}]}});
        assert_eq!(remaining_kinds(&namespace), ["pods", "foos.example.com"]);
        assert!(remaining_kinds(&json!({})).is_empty());
        assert!(is_of_a_test("example.com/test-finalizer"));
        assert!(!is_of_a_test("batch.kubernetes.io/job-tracking") && !is_of_a_test("foregroundDeletion"));
    }

    #[test]
    fn what_calls_into_a_test_namespace_is_found() {
        let namespaces = ["webhook-1".to_owned()];
        let webhook = |namespace: &str| json!({"webhooks": [{"clientConfig": {"url": "x"}}, {"clientConfig": {"service": {"namespace": namespace}}}]});
        assert!(leads_into(&webhook("webhook-1"), &namespaces));
        assert!(!leads_into(&webhook("kube-system"), &namespaces));
        assert!(leads_into(
            &json!({"spec": {"service": {"namespace": "webhook-1"}}}),
            &namespaces
        ));
        assert!(!leads_into(&json!({"spec": {}}), &namespaces));
    }
}
