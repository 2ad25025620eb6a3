//! Hand-over: what one side's server stored reads back equal from the other side's, over the same etcd.
//!
//! 1. A whole cluster of the one side comes up and runs something, so that there is what a running cluster makes.
//! 2. Everything but etcd and its API server stops. That server is given one valid object of every resource, and etcd one
//!    of upstream's golden objects (every field set) of every resource.
//! 3. Every object of every served version is read. The server stops, the other side's starts with the same flags.
//! 4. Every object is read again and compared, and a write through the new server must work on the old objects.
//!
//! A server writes a few objects of its own when it starts (its lease, the endpoints of the service `kubernetes`). These
//! alone may have another resource version afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use steersman_conformance::examples::{Served, examples, served};
use steersman_conformance::process::{Background, signal};
use steersman_conformance::{Cluster, Http, Namespace, eventually};

use crate::difference;
use crate::findings::Findings;

const JSON: &str = "application/json";

/// Every object by the path of its collection, then namespace and name.
type Objects = BTreeMap<String, BTreeMap<String, Value>>;

/// One hand-over on a cluster that is up.
pub struct HandOver<'a> {
    pub cluster: &'a Cluster,
    /// Folder of the cluster.
    pub state: &'a Path,
    /// Folder of golden objects (`hack/golden`).
    pub golden: &'a Path,
    /// The server that takes over.
    pub to: PathBuf,
    pub logs: &'a Path,
}

impl HandOver<'_> {
    /// Runs it; what it says goes into `findings`.
    ///
    /// # Errors
    /// What keeps it from being tried at all.
    pub fn run(&self, findings: &mut Findings) -> Result<()> {
        let http = Http::admin(self.cluster);
        // Stays: there are no controllers in the end that could empty it.
        let ns = std::mem::ManuallyDrop::new(Namespace::new("hand-over"));
        ns.serve_web("--type=NodePort");
        self.stop_all_but("kube-apiserver")?;

        let resources = served(&http);
        let keys = self.fill(&http, &ns.name, &resources, findings)?;
        let gold = self.gild(&resources, &ns.name, &keys)?;
        findings.notes.push(format!("golden objects put into etcd: {gold}"));
        let before = eventually("what is stored stays the same", 60, || {
            let (once, again) = (read_all(&http), read_all(&http));
            if versions(&once) == versions(&again) {
                Ok(once)
            } else {
                Err("it changes")
            }
        });

        let pid = self.cluster.pid("kube-apiserver").context("the server does not run")?;
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        self.stop("kube-apiserver")?;
        let _server = self.start(&arguments)?;
        eventually("the other server is ready", 90, || {
            let answer = http.get("/readyz");
            if answer.code == 200 { Ok(()) } else { Err(answer) }
        });
        let after = read_all(&http);
        compare(&before, &after, findings);
        findings.check("the new server writes the old objects", || {
            rewrite(&http, &ns.name, &resources)
        });
        Ok(())
    }

    /// One valid object of every resource; the etcd key of each by its resource.
    fn fill(
        &self,
        http: &Http,
        namespace: &str,
        resources: &[Served],
        findings: &mut Findings,
    ) -> Result<BTreeMap<String, String>> {
        let known = self.keys()?;
        let mut keys = BTreeMap::new();
        let mut seen = known;
        for (name, mut object) in examples() {
            let Some(resource) = resources.iter().find(|r| r.name == name) else {
                findings.failed.push(format!("{name} is not served"));
                continue;
            };
            resource.complete(&mut object, namespace);
            let answer = http.json("POST", &resource.collection(namespace), JSON, &object);
            if answer.code != 201 {
                findings
                    .failed
                    .push(format!("{name} cannot be filled in: {} {}", answer.code, answer.body));
                continue;
            }
            let now = self.keys()?;
            let stem = object["metadata"]["name"].as_str().unwrap_or_default();
            let fresh = now.difference(&seen).find(|key| key.ends_with(&format!("/{stem}")));
            match fresh {
                Some(key) => drop(keys.insert(name.to_owned(), key.clone())),
                None => findings
                    .failed
                    .push(format!("{name}: no new key in etcd ends with {stem}")),
            }
            seen = now;
        }
        findings.passed += keys.len();
        Ok(keys)
    }

    /// Golden objects of all resources whose key is known, as they are stored: envelope, protobuf. How many.
    fn gild(&self, resources: &[Served], namespace: &str, keys: &BTreeMap<String, String>) -> Result<usize> {
        let mut gilded = BTreeSet::new();
        for resource in resources {
            let Some(key) = keys.get(&resource.name) else { continue };
            let (group, version) = resource
                .api_version
                .split_once('/')
                .unwrap_or(("core", &resource.api_version));
            let name = format!("{group}.{version}.{}.pb", resource.kind);
            let Some(file) = ["api", "apiextensions"]
                .map(|f| self.golden.join(f).join(&name))
                .into_iter()
                .find(|f| f.exists())
            else {
                continue;
            };
            // What upstream stores as JSON is no protobuf in etcd.
            if ["apiextensions.k8s.io", "apiregistration.k8s.io"].contains(&group) {
                continue;
            }
            let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
            // Two groups may show one stored object (events): it is stored in the first one's version.
            if !gilded.insert(folder.to_owned()) {
                continue;
            }
            let folder = folder
                .strip_suffix(namespace)
                .map_or_else(|| folder.to_owned(), |f| format!("{f}namespaceValue"));
            let mut child = self
                .etcdctl()
                .args(["put", &format!("{folder}/nameValue")])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()?;
            child
                .stdin
                .take()
                .context("standard input is piped")?
                .write_all(&std::fs::read(file)?)?;
            if !child.wait()?.success() {
                bail!("etcdctl cannot put {folder}/nameValue");
            }
        }
        Ok(gilded.len())
    }

    fn keys(&self) -> Result<BTreeSet<String>> {
        let output = self
            .etcdctl()
            .args(["get", "/registry/", "--prefix", "--keys-only"])
            .output()?;
        if !output.status.success() {
            bail!("etcdctl: {}", String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect())
    }

    fn etcdctl(&self) -> Command {
        let mut command = Command::new(self.cluster.tool("etcdctl"));
        command
            .args(["--endpoints", "https://127.0.0.1:2379", "--cacert"])
            .arg(self.cluster.pki("etcd-ca.crt"));
        command
            .arg("--cert")
            .arg(self.cluster.pki("etcd-client.crt"))
            .arg("--key")
            .arg(self.cluster.pki("etcd-client.key"));
        command
    }

    /// Ends every program of the cluster but etcd and `kept`.
    fn stop_all_but(&self, kept: &str) -> Result<()> {
        for entry in std::fs::read_dir(self.state.join("run"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            match name.strip_suffix(".loop") {
                Some(name) if name != kept && !name.starts_with("etcd-") => self.stop(name)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends a program and the loop that would start it again.
    fn stop(&self, name: &str) -> Result<()> {
        let file = self.state.join("run").join(format!("{name}.loop"));
        let pid: i32 = std::fs::read_to_string(&file)
            .with_context(|| file.display().to_string())?
            .trim()
            .parse()?;
        signal(pid, libc::SIGTERM);
        // What does not end when it is asked to would go on writing.
        eventually(&format!("{name} ends"), 90, || {
            if file.exists() { Err("it runs") } else { Ok(()) }
        });
        Ok(())
    }

    /// The other server, with the arguments of the one that it takes over from.
    fn start(&self, arguments: &[u8]) -> Result<Background> {
        let arguments: Vec<String> = arguments
            .split(|b| *b == 0)
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .collect();
        let log = std::fs::File::create(self.logs.join("taking-over.log"))?;
        let child: Child = Command::new(&self.to)
            .args(arguments.iter().skip(1).filter(|a| !a.is_empty()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| self.to.display().to_string())?;
        Ok(Background(child))
    }
}

/// Every object of every resource in every served version.
fn read_all(http: &Http) -> Objects {
    let accept = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let groups = ["/api", "/apis"].map(|path| http.send("GET", path, &[accept], &[]).ok());
    let mut all = Objects::new();
    for group in groups
        .iter()
        .flat_map(|g| g["items"].as_array().cloned().unwrap_or_default())
    {
        let name = group["metadata"]["name"].as_str().unwrap_or_default();
        for version in group["versions"].as_array().into_iter().flatten() {
            let version_name = version["version"].as_str().unwrap_or_default();
            let root = if name.is_empty() {
                format!("/api/{version_name}")
            } else {
                format!("/apis/{name}/{version_name}")
            };
            for resource in version["resources"].as_array().into_iter().flatten() {
                let lists = resource["verbs"].as_array().is_some_and(|v| v.contains(&json!("list")));
                // Asked for when it is read, not stored; and a custom resource that the examples define.
                let stored = resource["resource"] != "componentstatuses" && name != "none.example.com";
                if !lists || !stored {
                    continue;
                }
                let path = format!("{root}/{}", resource["resource"].as_str().unwrap_or_default());
                let answer = http.get(&path);
                let objects = all.entry(path).or_default();
                if answer.code != 200 {
                    objects.insert("the list".to_owned(), json!({"code": answer.code, "body": answer.body}));
                }
                for object in answer.json()["items"].as_array().into_iter().flatten() {
                    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
                    objects.insert(format!("{}/{}", text("namespace"), text("name")), object.clone());
                }
            }
        }
    }
    all
}

/// What tells whether anything was written in between.
fn versions(objects: &Objects) -> Vec<String> {
    let all = objects.values().flat_map(BTreeMap::values);
    all.map(|o| o["metadata"]["resourceVersion"].to_string()).collect()
}

/// What a server writes when it starts or while it runs.
fn servers_own(path: &str, name: &str) -> bool {
    let plural = path.rsplit('/').next().unwrap_or_default();
    match plural {
        "leases" => name.starts_with("kube-system/apiserver-"),
        "endpoints" | "endpointslices" => name == "default/kubernetes",
        "configmaps" => [
            "kube-system/extension-apiserver-authentication",
            "kube-system/kube-apiserver-legacy-service-account-token-tracking",
        ]
        .contains(&name),
        _ => false,
    }
}

/// Kinds whose status the API server itself keeps: the new one may see things differently, and then it writes that down.
const KEPT_BY_SERVER: [&str; 3] = ["customresourcedefinitions", "flowschemas", "apiservices"];

/// Golden objects that contradict themselves, as no server would have stored them: upstream's makes them consistent
/// whenever it reads them, ours shows what is stored.
const INCONSISTENT: [(&str, &str); 2] = [
    (
        "daemonsets",
        "/metadata/annotations/deprecated.daemonset.template.generation",
    ),
    ("pods", "/status/podIPs/0/ip"),
];

/// What became of an object.
enum Fate {
    Equal,
    Own,
    Inconsistent(&'static str),
    Differs(String),
}

fn fate(path: &str, name: &str, old: &Value, new: &Value) -> Fate {
    if old == new {
        return Fate::Equal;
    }
    if servers_own(path, name) {
        return Fate::Own;
    }
    let plural = path.rsplit('/').next().unwrap_or_default();
    if KEPT_BY_SERVER.contains(&plural) {
        return match difference::first(&without_status(old), &without_status(new)) {
            None => Fate::Own,
            Some(at) => Fate::Differs(format!("{path} {name} differs at {at}")),
        };
    }
    let golden = name.ends_with("/nameValue");
    for (of, pointer) in INCONSISTENT.iter().filter(|(of, _)| golden && *of == plural) {
        let mut patched = new.clone();
        copy(old, &mut patched, pointer);
        if patched == *old {
            return Fate::Inconsistent(of);
        }
    }
    Fate::Differs(format!(
        "{path} {name} differs at {}",
        difference::first(old, new).unwrap_or_default()
    ))
}

fn without_status(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    for field in ["resourceVersion", "managedFields", "generation"] {
        object["metadata"].as_object_mut().and_then(|m| m.remove(field));
    }
    object
}

/// Makes what is at `pointer` in `to` what it is in `from`, or nothing.
fn copy(from: &Value, to: &mut Value, pointer: &str) {
    let Some((parent, key)) = pointer.rsplit_once('/') else {
        return;
    };
    match (from.pointer(pointer), to.pointer_mut(parent)) {
        (Some(value), Some(Value::Object(fields))) => drop(fields.insert(key.to_owned(), value.clone())),
        (None, Some(Value::Object(fields))) => drop(fields.remove(key)),
        _ => {}
    }
}

fn compare(before: &Objects, after: &Objects, findings: &mut Findings) {
    let (mut own, mut made, mut inconsistent) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut equal, mut lines) = (0, Vec::new());
    for (path, old) in before {
        let short = path.rsplit('/').next().unwrap_or_default();
        let Some(new) = after.get(path) else {
            lines.push(format!("{path} is not served by the new server"));
            continue;
        };
        for (name, object) in old {
            match new.get(name).map(|new| fate(path, name, object, new)) {
                Some(Fate::Equal) => equal += 1,
                Some(Fate::Own) => drop(own.insert(format!("{short} {name}"))),
                Some(Fate::Inconsistent(of)) => drop(inconsistent.insert(of)),
                Some(Fate::Differs(why)) => lines.push(why),
                // The old server's lease, for one, goes with it.
                None if servers_own(path, name) => drop(own.insert(format!("{short} {name}"))),
                None => lines.push(format!("{path} {name} is gone")),
            }
        }
        made.extend(
            new.keys()
                .filter(|n| !old.contains_key(*n))
                .map(|name| format!("{short} {name}")),
        );
    }
    findings.passed += equal;
    let mut note = |text: String| findings.notes.push(text);
    note(format!(
        "{equal} objects read back equal, in {} lists of every served version",
        before.len()
    ));
    let served = after
        .keys()
        .filter(|p| !before.contains_key(*p))
        .cloned()
        .collect::<Vec<_>>();
    for (what, names) in [
        ("kept up to date by the new server itself", own.into_iter().collect()),
        ("new objects of the new server", made.into_iter().collect()),
        ("only the new server serves", served),
    ] {
        if !names.is_empty() {
            note(format!("{what}: {} ({})", names.len(), names.join(", ")));
        }
    }
    if !inconsistent.is_empty() {
        let names = inconsistent.into_iter().collect::<Vec<_>>().join(", ");
        note(format!(
            "golden objects that contradict themselves, which upstream corrects at every reading: {names}"
        ));
    }
    lines.iter().for_each(|line| println!("    FAILED: {line}"));
    let count = lines.len();
    findings.failed.extend(lines.into_iter().take(20));
    if count > 20 {
        findings.failed.push(format!("and {} more differences", count - 20));
    }
}

/// Changes and deletes every example through the new server.
fn rewrite(http: &Http, namespace: &str, resources: &[Served]) -> Result<(), String> {
    let merge = "application/merge-patch+json";
    for (name, mut object) in examples() {
        let Some(resource) = resources.iter().find(|r| r.name == name) else {
            continue;
        };
        let object_name = resource.complete(&mut object, namespace);
        let path = format!("{}/{object_name}", resource.collection(namespace));
        for (method, body) in [
            ("PATCH", json!({"metadata": {"labels": {"handed": "over"}}})),
            ("DELETE", Value::Null),
        ] {
            let answer = http.json(method, &path, merge, &body);
            if !(200..300).contains(&answer.code) {
                return Err(format!("{method} {path}: {answer:?}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(path: &str, name: &str, old: &Value, new: &Value) -> bool {
        matches!(fate(path, name, old, new), Fate::Differs(_))
    }

    #[test]
    fn only_a_servers_own_objects_may_change() {
        let (old, new) = (
            json!({"metadata": {"resourceVersion": "1"}}),
            json!({"metadata": {"resourceVersion": "2"}}),
        );
        assert!(!differs("/api/v1/endpoints", "default/kubernetes", &old, &new));
        assert!(differs("/api/v1/endpoints", "default/other", &old, &new));
        assert!(differs("/api/v1/events", "default/x", &old, &new));
    }

    #[test]
    fn what_the_server_keeps_may_differ_in_its_status_alone() {
        let object = |version: &str, spec: u8, status: u8| json!({"metadata": {"name": "f", "resourceVersion": version}, "spec": spec, "status": status});
        let path = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
        assert!(!differs(path, "/f", &object("1", 1, 1), &object("2", 1, 2)));
        assert!(differs(path, "/f", &object("1", 1, 1), &object("2", 2, 2)));
    }

    #[test]
    fn a_golden_object_may_differ_where_it_contradicts_itself_and_nowhere_else() {
        let plain = json!({"metadata": {"annotations": {}}, "spec": 1});
        let corrected =
            json!({"metadata": {"annotations": {"deprecated.daemonset.template.generation": "0"}}, "spec": 1});
        let other = json!({"metadata": {"annotations": {"deprecated.daemonset.template.generation": "0"}}, "spec": 2});
        let path = "/apis/apps/v1/daemonsets";
        assert!(!differs(path, "namespaceValue/nameValue", &plain, &corrected));
        assert!(!differs(path, "namespaceValue/nameValue", &corrected, &plain));
        assert!(differs(path, "default/real", &plain, &corrected));
        assert!(differs(path, "namespaceValue/nameValue", &plain, &other));
    }
}
