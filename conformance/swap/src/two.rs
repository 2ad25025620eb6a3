//! One API server of each side over the same etcd, with the same clients: what either says, the other knows.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use steersman_conformance::http::Answer;
use steersman_conformance::{Cluster, Http, Namespace, eventually};

use crate::findings::Findings;

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// Both servers, and a namespace to work in.
pub struct Pair {
    ns: Namespace,
    ours: Http,
    upstream: Http,
}

impl Pair {
    /// Ours is the first server of the cluster, upstream's the second.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        let admin = Http::admin(cluster);
        Self {
            ns: Namespace::new("two"),
            // Not through the balancer that hack/up puts in front of both.
            ours: admin.at("https://127.0.0.1:6443"),
            upstream: admin.at("https://127.0.0.1:6444"),
        }
    }

    fn directions(&self) -> [(&'static str, &Http, &Http); 2] {
        [
            ("from ours to upstream's", &self.ours, &self.upstream),
            ("from upstream's to ours", &self.upstream, &self.ours),
        ]
    }

    fn path(&self, resource: &str) -> String {
        match resource.rsplit_once('/') {
            Some((group, plural)) => format!("/apis/{group}/namespaces/{}/{plural}", self.ns.name),
            None => format!("/api/v1/namespaces/{}/{resource}", self.ns.name),
        }
    }

    /// Runs every check.
    pub fn run(&self, findings: &mut Findings) {
        for (way, from, to) in self.directions() {
            findings.check(&format!("what one writes the other reads at once, {way}"), || {
                self.reads(from, to)
            });
        }
        findings.check("both list the same objects", || self.lists());
        findings.check("both send the same bytes of protobuf", || self.protobuf());
        findings.check("watches of both see every write of both in one order", || {
            self.watches()
        });
        findings.check("of two concurrent creations of one name one succeeds", || {
            self.creations()
        });
        if let Some(conflicts) = findings.check("concurrent updates through both lose nothing", || self.counter()) {
            findings.notes.push(format!(
                "{conflicts} conflicts while counting to 80 through both servers"
            ));
        }
        findings.check("refusals have the same text", || self.refusals());
        findings.check(
            "service addresses and node ports given out by both are different",
            || self.services(),
        );
        for (way, from, to) in self.directions() {
            findings.check(
                &format!("tokens and roles made at one hold at the other, {way}"),
                || self.rbac(from, to),
            );
        }
    }

    fn reads(&self, from: &Http, to: &Http) -> Result<(), String> {
        let collection = self.path("configmaps");
        for i in 0..20 {
            let path = format!("{collection}/read-{i}");
            let made = from
                .json("POST", &collection, JSON, &config_map(&format!("read-{i}"), "0"))
                .ok();
            same("GET after POST", &made, &to.get(&path).ok())?;
            let list = to
                .get(&format!("{collection}?fieldSelector=metadata.name=read-{i}"))
                .ok();
            if list["items"].as_array().map_or(0, Vec::len) != 1 {
                return Err(format!("LIST after POST: {list}"));
            }
            let changed = to.json("PATCH", &path, MERGE, &json!({"data": {"n": "1"}})).ok();
            same("GET after PATCH", &changed, &from.get(&path).ok())?;
            let _ = from.json("DELETE", &path, JSON, &Value::Null).ok();
            let gone = to.get(&path);
            if gone.code != 404 {
                return Err(format!("GET after DELETE: {gone:?}"));
            }
        }
        Ok(())
    }

    fn lists(&self) -> Result<(), String> {
        for path in [
            "/api/v1/namespaces",
            "/api/v1/nodes",
            "/api/v1/services",
            "/api/v1/serviceaccounts",
            "/api/v1/configmaps",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
            "/apis/networking.k8s.io/v1/ipaddresses",
            "/apis/scheduling.k8s.io/v1/priorityclasses",
        ] {
            // The nodes and leases of a live cluster may change between two reads.
            let mut last = Err(String::new());
            for _ in 0..5 {
                let (ours, upstream) = (self.ours.get(path).ok(), self.upstream.get(path).ok());
                last = same(path, &ours["items"], &upstream["items"]);
                if last.is_ok() {
                    break;
                }
            }
            last?;
        }
        Ok(())
    }

    fn protobuf(&self) -> Result<(), String> {
        let accept = ["Accept: application/vnd.kubernetes.protobuf"];
        for path in [
            "/api/v1/namespaces/kube-system",
            "/api/v1/namespaces/default/services/kubernetes",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/admin",
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/system-nodes",
        ] {
            let (ours, upstream) = (
                self.ours.send("GET", path, &accept, &[]),
                self.upstream.send("GET", path, &accept, &[]),
            );
            if ours.code != 200 || ours.body != upstream.body {
                return Err(format!("{path}: {ours:?} and {upstream:?}"));
            }
        }
        Ok(())
    }

    fn watches(&self) -> Result<(), String> {
        let collection = self.path("configmaps");
        let start = self.ours.get(&format!("{collection}?limit=1")).ok();
        let version = start["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let watch = |http: &Http| {
            let answer = http.get(&format!(
                "{collection}?watch=true&timeoutSeconds=8&resourceVersion={version}&labelSelector=watched"
            ));
            let events = answer
                .body
                .lines()
                .filter_map(|l| serde_json::from_str::<Value>(l).ok());
            events
                .map(|e| {
                    let meta = &e["object"]["metadata"];
                    format!("{} {} {}", e["type"], meta["name"], meta["resourceVersion"])
                })
                .collect::<Vec<_>>()
        };
        let (ours, upstream) = std::thread::scope(|scope| {
            let (ours, upstream) = (scope.spawn(|| watch(&self.ours)), scope.spawn(|| watch(&self.upstream)));
            for i in 0..20 {
                let (one, other) = if i % 2 == 0 {
                    (&self.ours, &self.upstream)
                } else {
                    (&self.upstream, &self.ours)
                };
                let mut map = config_map(&format!("watch-{i}"), "0");
                map["metadata"]["labels"] = json!({"watched": "yes"});
                let _ = one.json("POST", &collection, JSON, &map).ok();
                let path = format!("{collection}/watch-{i}");
                let _ = other.json("PATCH", &path, MERGE, &json!({"data": {"n": "1"}})).ok();
                let _ = one.json("DELETE", &path, JSON, &Value::Null).ok();
            }
            (ours.join(), upstream.join())
        });
        let (ours, upstream) = (
            ours.map_err(|_| "a watch failed")?,
            upstream.map_err(|_| "a watch failed")?,
        );
        if ours != upstream || ours.len() != 60 {
            return Err(format!(
                "{} events at ours, {} at upstream's: {ours:?} {upstream:?}",
                ours.len(),
                upstream.len()
            ));
        }
        Ok(())
    }

    fn creations(&self) -> Result<(), String> {
        let collection = self.path("configmaps");
        for i in 0..20 {
            let map = config_map(&format!("race-{i}"), "0");
            let codes = std::thread::scope(|scope| {
                let other = scope.spawn(|| self.upstream.json("POST", &collection, JSON, &map).code);
                let mut codes = [
                    self.ours.json("POST", &collection, JSON, &map).code,
                    other.join().unwrap_or_default(),
                ];
                codes.sort_unstable();
                codes
            });
            if codes != [201, 409] {
                return Err(format!("{codes:?}"));
            }
        }
        Ok(())
    }

    /// Four writers, two at each server, count in one object; how many conflicts they met.
    fn counter(&self) -> Result<usize, String> {
        let collection = self.path("configmaps");
        let path = format!("{collection}/counter");
        let _ = self
            .ours
            .json("POST", &collection, JSON, &config_map("counter", "0"))
            .ok();
        let count = |http: &Http| {
            let mut conflicts = 0;
            for _ in 0..20 {
                eventually("the counter goes up", 30, || {
                    let mut map = http.get(&path).ok();
                    let n: u32 = map["data"]["n"]
                        .as_str()
                        .and_then(|n| n.parse().ok())
                        .unwrap_or_default();
                    map["data"]["n"] = json!((n + 1).to_string());
                    let answer = http.json("PUT", &path, JSON, &map);
                    conflicts += usize::from(answer.code == 409);
                    if answer.code == 200 { Ok(()) } else { Err(answer) }
                });
            }
            conflicts
        };
        let servers = [&self.ours, &self.upstream, &self.ours, &self.upstream];
        let conflicts = std::thread::scope(|scope| {
            let writers = servers.map(|http| scope.spawn(move || count(http)));
            writers
                .into_iter()
                .map(|w| w.join().map_err(|_| "a writer failed".to_owned()))
                .sum::<Result<usize, _>>()
        })?;
        let last = self.upstream.get(&path).ok();
        same("the counter", &json!("80"), &last["data"]["n"])?;
        Ok(conflicts)
    }

    fn refusals(&self) -> Result<(), String> {
        let collection = self.path("configmaps");
        let path = format!("{collection}/refused");
        let old = self
            .ours
            .json("POST", &collection, JSON, &config_map("refused", "0"))
            .ok();
        let _ = self
            .upstream
            .json("PATCH", &path, MERGE, &json!({"data": {"n": "1"}}))
            .ok();
        let ask = |method: &str, path: &str, body: &Value| {
            let (ours, upstream) = (
                self.ours.json(method, path, JSON, body),
                self.upstream.json(method, path, JSON, body),
            );
            if ours.code < 400 || (ours.code, ours.json()) != (upstream.code, upstream.json()) {
                return Err(format!("{method} {path}: {ours:?} and {upstream:?}"));
            }
            Ok(())
        };
        ask("PUT", &path, &old)?;
        ask("POST", &collection, &config_map("refused", "0"))?;
        ask("POST", &collection, &config_map("Refused", "0"))?;
        ask("GET", &format!("{collection}/nothing"), &Value::Null)?;
        ask(
            "DELETE",
            &path,
            &json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "nobody"}}),
        )
    }

    fn services(&self) -> Result<(), String> {
        let collection = self.path("services");
        let servers = [&self.ours, &self.upstream, &self.ours, &self.upstream];
        let make = |http: &Http, prefix: usize| -> Vec<Value> {
            (0..10)
                .map(|i| {
                    http.json(
                        "POST",
                        &collection,
                        JSON,
                        &service(&format!("s-{prefix}-{i}"), &json!({})),
                    )
                    .ok()
                })
                .collect()
        };
        let made: Vec<Value> = std::thread::scope(|scope| {
            let makers: Vec<_> = servers
                .into_iter()
                .enumerate()
                .map(|(i, http)| scope.spawn(move || make(http, i)))
                .collect();
            makers
                .into_iter()
                .map(|m| m.join().map_err(|_| "a creation failed"))
                .collect::<Result<Vec<_>, _>>()
        })?
        .into_iter()
        .flatten()
        .collect();
        let distinct = |pointer: &str| {
            made.iter()
                .filter_map(|s| s.pointer(pointer))
                .map(Value::to_string)
                .collect::<BTreeSet<_>>()
        };
        let (addresses, ports) = (distinct("/spec/clusterIP"), distinct("/spec/ports/0/nodePort"));
        if (made.len(), addresses.len(), ports.len()) != (40, 40, 40) {
            return Err(format!(
                "{} services, {} addresses, {} node ports",
                made.len(),
                addresses.len(),
                ports.len()
            ));
        }
        // What one has given away the other refuses, in the same words.
        for taken in made.iter().take(11) {
            for spec in [
                json!({"clusterIP": taken["spec"]["clusterIP"]}),
                json!({"ports": [{"port": 80, "nodePort": taken["spec"]["ports"][0]["nodePort"]}]}),
            ] {
                let body = service("taken", &spec);
                let (ours, upstream) = (
                    self.ours.json("POST", &collection, JSON, &body),
                    self.upstream.json("POST", &collection, JSON, &body),
                );
                if ours.code != 422 || ours.json() != upstream.json() {
                    return Err(format!("{spec}: {ours:?} and {upstream:?}"));
                }
            }
        }
        // What one takes back, the other may give away again.
        for (i, taken) in made.iter().take(20).enumerate() {
            let (one, other) = if i % 2 == 0 {
                (&self.ours, &self.upstream)
            } else {
                (&self.upstream, &self.ours)
            };
            let name = taken["metadata"]["name"].as_str().unwrap_or_default();
            let _ = one
                .json("DELETE", &format!("{collection}/{name}"), JSON, &Value::Null)
                .ok();
            let spec = json!({"clusterIP": taken["spec"]["clusterIP"], "ports": [{"port": 80, "nodePort": taken["spec"]["ports"][0]["nodePort"]}]});
            eventually("a freed address and port are given again", 10, || {
                let answer = other.json("POST", &collection, JSON, &service(&format!("again-{i}"), &spec));
                if answer.code == 201 { Ok(()) } else { Err(answer) }
            });
        }
        Ok(())
    }

    fn rbac(&self, from: &Http, to: &Http) -> Result<(), String> {
        let name = format!(
            "account-{:06x}",
            std::process::id() ^ u32::from(std::ptr::eq(from, &raw const self.ours))
        );
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        let _ = from.json("POST", &self.path("serviceaccounts"), JSON, &account).ok();
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
        let token = from
            .json(
                "POST",
                &format!("{}/{name}/token", self.path("serviceaccounts")),
                JSON,
                &request,
            )
            .ok();
        let bearer = format!(
            "Authorization: Bearer {}",
            token["status"]["token"].as_str().unwrap_or_default()
        );
        let anonymous = Http::anonymous(&self.ns.cluster);
        let (ours, upstream) = (
            anonymous.at("https://127.0.0.1:6443"),
            anonymous.at("https://127.0.0.1:6444"),
        );
        let list = |http: &Http| -> Answer { http.send("GET", &self.path("configmaps"), &[&bearer], &[]) };
        let refused = (list(&ours), list(&upstream));
        if (refused.0.code, refused.1.code) != (403, 403) || refused.0.json() != refused.1.json() {
            return Err(format!("before the binding: {refused:?}"));
        }
        let rbac = |plural: &str| self.path(&format!("rbac.authorization.k8s.io/v1/{plural}"));
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.ns.name}]});
        let _ = from.json("POST", &rbac("roles"), JSON, &role).ok();
        let _ = from.json("POST", &rbac("rolebindings"), JSON, &binding).ok();
        let both = |code: u16| {
            eventually(&format!("both answer {code}"), 10, || {
                let codes = (list(&ours).code, list(&upstream).code);
                if codes == (code, code) { Ok(()) } else { Err(codes) }
            });
        };
        both(200);
        let _ = to
            .json(
                "DELETE",
                &format!("{}/{name}", rbac("rolebindings")),
                JSON,
                &Value::Null,
            )
            .ok();
        both(403);
        Ok(())
    }
}

/// A folder that looks like the cluster's, whose administrator reaches `server` instead of the first API server.
///
/// # Errors
/// A file cannot be read or made.
pub fn behind(state: &Path, folder: &Path, server: &str) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => std::fs::create_dir_all(folder)?,
    }
    for name in ["bin", "pki", "logs", "run", "nodes", "conf"] {
        std::os::unix::fs::symlink(state.join(name), folder.join(name))?;
    }
    let config = std::fs::read_to_string(state.join("admin.kubeconfig"))?;
    std::fs::write(
        folder.join("admin.kubeconfig"),
        config.replace("https://127.0.0.1:6443", server),
    )?;
    Ok(())
}

fn config_map(name: &str, n: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": n}})
}

fn service(name: &str, spec: &Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "NodePort", "selector": {"nobody": "here"}, "ports": [{"port": 80}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        service["spec"][key] = value.clone();
    }
    service
}

fn same(what: &str, one: &Value, other: &Value) -> Result<(), String> {
    if one == other {
        Ok(())
    } else {
        Err(format!(
            "{what}: {}",
            crate::difference::first(one, other).unwrap_or_default()
        ))
    }
}
