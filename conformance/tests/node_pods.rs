//! What a container finds when it starts, and what becomes of it: environment, volumes, identity, probes, termination.

use serde_json::{Value, json};
use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Namespace, eventually};

/// A pod of one busybox container that runs `script`, with more put into the container's and the pod's spec.
fn pod(name: &str, script: &str, container: Value, spec: Value) -> Value {
    let mut main = json!({"name": "main", "image": "busybox:1.36", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]});
    let mut pod = json!({"terminationGracePeriodSeconds": 1, "restartPolicy": "Never"});
    merge(&mut main, container);
    merge(&mut pod, spec);
    pod["containers"] = json!([main]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}, "annotations": {"note": "from above"}}, "spec": pod})
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().cloned().unwrap_or_default() {
        into[key] = value;
    }
}

/// Runs a pod to its end and returns what it printed.
fn output(ns: &Namespace, pod: &Value) -> String {
    let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
    ns.kubectl.apply(&pod.to_string());
    eventually(&format!("{name} has ended"), 60, || {
        let phase = ns.kubectl.field(&format!("pod {name}"), "/status/phase");
        if phase == "Succeeded" || phase == "Failed" {
            Ok(())
        } else {
            Err(ns.kubectl.run(&format!("describe pod {name}")).stdout)
        }
    });
    ns.kubectl.run(&format!("logs {name}")).ok()
}

fn ready(ns: &Namespace, pod: &Value) -> String {
    let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
    ns.kubectl.apply(&pod.to_string());
    let _ = ns
        .kubectl
        .run(&format!("wait pod/{name} --for=condition=Ready --timeout=60s"))
        .ok();
    name
}

fn exec(ns: &Namespace, pod: &str, script: &str) -> String {
    ns.kubectl.run_of(&["exec", pod, "--", "sh", "-c", script]).stdout
}

#[test]
fn the_environment_comes_from_every_source() {
    let ns = Namespace::new("env");
    let _ = ns
        .kubectl
        .run("create configmap settings --from-literal=colour=blue --from-literal=SIZE=large")
        .ok();
    let _ = ns
        .kubectl
        .run("create secret generic keys --from-literal=token=opensesame")
        .ok();
    let _ = ns.kubectl.run("create service clusterip db --tcp=5432").ok();
    let container = json!({
        "env": [
            {"name": "PLAIN", "value": "plain"},
            {"name": "COMPOSED", "value": "$(PLAIN)-$(COLOUR)-$$(PLAIN)"},
            {"name": "LATE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
            {"name": "OPTIONAL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "no", "optional": true}}},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        ],
        "envFrom": [{"prefix": "FROM_", "configMapRef": {"name": "settings"}}],
        "resources": {"limits": {"memory": "64Mi"}},
    });
    let text = output(&ns, &pod("env", "env; hostname", container, json!({})));
    for line in [
        "PLAIN=plain",
        "COMPOSED=plain-$(COLOUR)-$(PLAIN)",
        "LATE=blue",
        "TOKEN=opensesame",
        "LABEL=env",
        "LIMIT=64",
        "FROM_SIZE=large",
        "DB_SERVICE_PORT=5432",
        "KUBERNETES_SERVICE_HOST=10.232.0.1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    assert!(!text.contains("OPTIONAL="), "{text}");
    assert!(
        text.lines().any(|l| l.starts_with("NODE=node-")) && text.lines().any(|l| l.starts_with("POD_IP=10.231.")),
        "{text}"
    );
    assert!(text.ends_with("env\n"), "the host name is the pod's: {text}");
}

#[test]
fn a_missing_source_keeps_the_container_waiting_and_says_why() {
    let ns = Namespace::new("missing");
    let container = json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "a"}}}]});
    ns.kubectl
        .apply(&pod("waits", "echo $A", container, json!({})).to_string());
    eventually_eq("the reason", 60, json!("CreateContainerConfigError"), || {
        ns.kubectl
            .field("pod waits", "/status/containerStatuses/0/state/waiting/reason")
    });
    let message = ns
        .kubectl
        .field("pod waits", "/status/containerStatuses/0/state/waiting/message");
    assert_eq!(message, json!("configmap \"later\" not found"));
    let _ = ns.kubectl.run("create configmap later --from-literal=a=now").ok();
    eventually_eq("it runs once the map is there", 120, json!("Succeeded"), || {
        ns.kubectl.field("pod waits", "/status/phase")
    });
    assert_eq!(ns.kubectl.run("logs waits").ok(), "now\n");
}

#[test]
fn volumes_hold_what_they_are_made_from_and_follow_changes() {
    let ns = Namespace::new("volumes");
    let _ = ns
        .kubectl
        .run("create configmap settings --from-literal=colour=blue")
        .ok();
    let _ = ns
        .kubectl
        .run("create secret generic keys --from-literal=token=opensesame")
        .ok();
    let volumes = json!([
        {"name": "settings", "configMap": {"name": "settings", "items": [{"key": "colour", "path": "deep/colour", "mode": 256}]}},
        {"name": "keys", "secret": {"secretName": "keys"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
        {"name": "host", "hostPath": {"path": "/usr/lib", "type": "Directory"}},
        {"name": "self", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "all", "projected": {"sources": [
            {"serviceAccountToken": {"path": "identity", "audience": "vault", "expirationSeconds": 600}},
            {"configMap": {"name": "settings"}}, {"secret": {"name": "keys"}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
    ]);
    let mounts: Vec<Value> = volumes
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| json!({"name": v["name"], "mountPath": format!("/v/{}", v["name"].as_str().unwrap_or_default())}))
        .collect();
    let mut mounts = mounts;
    mounts.push(json!({"name": "keys", "mountPath": "/one-file", "subPath": "token"}));
    let name = ready(
        &ns,
        &pod(
            "volumes",
            "echo kept >/v/scratch/x; sleep 1000",
            json!({"volumeMounts": mounts}),
            json!({"volumes": volumes}),
        ),
    );
    assert_eq!(
        exec(&ns, &name, "cat /v/settings/deep/colour /v/keys/token /one-file"),
        "blueopensesameopensesame"
    );
    assert_eq!(
        exec(&ns, &name, "stat -L -c %a /v/settings/deep/colour /v/keys/token"),
        "400\n644\n"
    );
    assert_eq!(
        exec(
            &ns,
            &name,
            "cat /v/scratch/x; cat /v/self/labels; echo; cat /v/all/name"
        ),
        "kept\napp=\"volumes\"\nvolumes"
    );
    assert!(
        exec(&ns, &name, "mount")
            .lines()
            .any(|l| l.starts_with("tmpfs on /v/memory ")),
        "memory is a tmpfs"
    );
    assert!(exec(&ns, &name, "cat /v/host/os-release").contains("Debian"));
    let token = exec(&ns, &name, "cat /v/all/identity");
    assert_eq!(token.split('.').count(), 3, "a signed token: {token}");
    // A distribution may add certificates of its own.
    let account = exec(&ns, &name, "ls /var/run/secrets/kubernetes.io/serviceaccount");
    for file in ["ca.crt", "namespace", "token"] {
        assert!(account.lines().any(|l| l == file), "{file}: {account}");
    }

    let _ = ns
        .kubectl
        .run_of(&["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"green"}}"#])
        .ok();
    eventually_eq("the file follows the map", 150, "green".to_owned(), || {
        exec(&ns, &name, "cat /v/settings/deep/colour")
    });
}

#[test]
fn a_pods_own_token_lets_it_do_what_its_account_may() {
    let ns = Namespace::new("token");
    let _ = ns.kubectl.run("create serviceaccount reader").ok();
    let _ = ns.kubectl.run("create role reads --verb=get,list --resource=pods").ok();
    let _ = ns
        .kubectl
        .run(&format!(
            "create rolebinding reads --role=reads --serviceaccount={}:reader",
            ns.name
        ))
        .ok();
    let token = ns.kubectl.run("create token reader --duration=10m").ok();
    let with = |args: &[&str]| ns.kubectl.run_of(&[&["--token", token.trim()][..], args].concat());
    // kubectl sends the admin's certificate beside the token; a review asks what the token alone is worth.
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token.trim()}});
    let reviewed = ns
        .kubectl
        .run_with(
            &["create", "--validate=false", "-o", "json", "-f", "-"],
            &review.to_string(),
        )
        .ok();
    let reviewed: Value = serde_json::from_str(&reviewed).expect("JSON");
    assert_eq!(
        reviewed.pointer("/status/authenticated"),
        Some(&json!(true)),
        "{reviewed}"
    );
    assert_eq!(
        reviewed.pointer("/status/user/username"),
        Some(&json!(format!("system:serviceaccount:{}:reader", ns.name)))
    );
    assert_eq!(with(&["get", "pods", "-o", "name"]).code, 0);
    let as_reader = format!("--as=system:serviceaccount:{}:reader", ns.name);
    eventually_eq("the account may list pods", 10, "yes\n".to_owned(), || {
        ns.kubectl.run_of(&["auth", "can-i", "list", "pods", &as_reader]).stdout
    });
    assert_eq!(
        ns.kubectl
            .run_of(&["auth", "can-i", "delete", "pods", &as_reader])
            .stdout
            .trim(),
        "no"
    );
    let _ = ns.kubectl.run("delete serviceaccount reader").ok();
    // A server may remember for a few seconds that a token was good.
    eventually("a token ends with its account", 30, || {
        let after = ns
            .kubectl
            .run_with(
                &["create", "--validate=false", "-o", "json", "-f", "-"],
                &review.to_string(),
            )
            .ok();
        let after: Value = serde_json::from_str(&after).expect("JSON");
        if after.pointer("/status/authenticated") == Some(&json!(true)) {
            Err(after)
        } else {
            Ok(())
        }
    });
}

#[test]
fn init_containers_run_first_one_after_the_other() {
    let ns = Namespace::new("init");
    let init = |name: &str, script: &str| json!({"name": name, "image": "busybox:1.36", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script], "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let spec = json!({"volumes": [{"name": "v", "emptyDir": {}}], "initContainers": [init("one", "sleep 1; echo one >>/v/log"), init("two", "echo two >>/v/log")]});
    let text = output(
        &ns,
        &pod(
            "init",
            "cat /v/log",
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
            spec,
        ),
    );
    assert_eq!(text, "one\ntwo\n");
    let conditions = ns
        .kubectl
        .field("pod init", "/status/initContainerStatuses/0/state/terminated/reason");
    assert_eq!(conditions, json!("Completed"));
}

#[test]
fn a_failing_liveness_probe_restarts_and_readiness_gates() {
    let ns = Namespace::new("probes");
    let container = json!({
        "livenessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/dead"]}, "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 2},
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "timeoutSeconds": 20},
        "startupProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 20},
    });
    ns.kubectl
        .apply(&pod("probed", "sleep 1000", container, json!({"restartPolicy": "Always"})).to_string());
    let status = |pointer: &str| {
        ns.kubectl
            .field("pod probed", &format!("/status/containerStatuses/0{pointer}"))
    };
    eventually_eq("the container has started", 60, json!(true), || status("/started"));
    assert_eq!(status("/ready"), json!(false));
    exec(&ns, "probed", "touch /tmp/ready");
    eventually_eq("the container is ready", 20, json!(true), || status("/ready"));
    exec(&ns, "probed", "touch /tmp/dead");
    eventually_eq("it has been restarted", 60, json!(1), || status("/restartCount"));
    assert_eq!(status("/lastState/terminated/exitCode"), json!(137));
    eventually("the events that say why", 20, || {
        let events = ns
            .kubectl
            .run("get events --field-selector=involvedObject.name=probed")
            .ok();
        let parts = [
            "Liveness probe failed",
            "Readiness probe failed",
            "Container main failed liveness probe, will be restarted",
        ];
        if parts.iter().all(|p| events.contains(p)) {
            Ok(())
        } else {
            Err(events)
        }
    });
}

#[test]
fn http_and_tcp_probes_see_the_pods_ports() {
    let ns = Namespace::new("ports");
    let web = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
        "name": "web", "image": steersman_conformance::WEB_IMAGE, "imagePullPolicy": "IfNotPresent", "ports": [{"name": "http", "containerPort": 8080}],
        "livenessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "timeoutSeconds": 20},
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 1}}]}});
    let name = ready(&ns, &web);
    let _ = ns
        .kubectl
        .run("expose pod web --port=80 --target-port=8080 --selector=app=none")
        .ok();
    let client = ready(&ns, &pod("client", "sleep 1000", json!({}), json!({})));
    let address = ns.kubectl.field("pod web", "/status/podIP");
    exec(
        &ns,
        &client,
        &format!(
            "wget -q -O - http://{}:8080/unhealthy",
            address.as_str().unwrap_or_default()
        ),
    );
    eventually_eq("an unhealthy answer takes readiness away", 20, json!(false), || {
        ns.kubectl
            .field(&format!("pod {name}"), "/status/containerStatuses/0/ready")
    });
    assert_eq!(
        ns.kubectl.field("pod web", "/status/containerStatuses/0/restartCount"),
        json!(0)
    );
}

#[test]
fn termination_is_graceful_and_leaves_a_message() {
    let ns = Namespace::new("ending");
    let text = output(
        &ns,
        &pod(
            "message",
            "echo -n 'the last word' >/dev/termination-log; exit 4",
            json!({}),
            json!({}),
        ),
    );
    assert_eq!(text, "");
    let ended = ns
        .kubectl
        .field("pod message", "/status/containerStatuses/0/state/terminated");
    assert_eq!(
        (&ended["message"], &ended["exitCode"], &ended["reason"]),
        (&json!("the last word"), &json!(4), &json!("Error"))
    );

    let script = "trap 'echo told; sleep 1; echo done; exit 0' TERM; echo up; while true; do sleep 0.1; done";
    let container = json!({"lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo before >/proc/1/fd/1"]}}}});
    let name = ready(
        &ns,
        &pod(
            "graceful",
            script,
            container,
            json!({"terminationGracePeriodSeconds": 20}),
        ),
    );
    let mut follow = ns
        .kubectl
        .command(&format!("logs -f {name}"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("kubectl");
    // The log is being followed once its first line is here.
    let mut log = std::io::BufReader::new(follow.stdout.take().expect("piped"));
    let mut text = String::new();
    std::io::BufRead::read_line(&mut log, &mut text).expect("a first line");
    let _ = ns.kubectl.run(&format!("delete pod {name} --timeout=60s")).ok();
    std::io::Read::read_to_string(&mut log, &mut text).expect("text");
    let _ = follow.wait();
    assert_eq!(text, "up\nbefore\ntold\ndone\n");
}

#[test]
fn a_container_runs_as_whom_and_with_what_its_spec_says() {
    let ns = Namespace::new("identity");
    let container = json!({
        "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false},
        "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    });
    let spec = json!({"securityContext": {"fsGroup": 2000, "supplementalGroups": [4000]}, "volumes": [{"name": "v", "emptyDir": {}}]});
    let script = "id; touch /x || echo read-only; touch /v/x && stat -c %g /v/x; grep -E 'CapEff|NoNewPrivs' /proc/self/status; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; cat /etc/hosts";
    let text = output(&ns, &pod("identity", script, container, spec));
    assert!(
        text.contains("uid=1000 gid=3000") && text.contains("2000") && text.contains("4000"),
        "{text}"
    );
    assert!(
        text.contains("read-only") && text.lines().any(|l| l == "2000"),
        "{text}"
    );
    assert!(
        text.contains("CapEff:\t0000000000000000") && text.contains("NoNewPrivs:\t1"),
        "{text}"
    );
    assert!(
        text.lines().any(|l| l == "67108864"),
        "the memory limit is the kernel's: {text}"
    );
    assert!(
        text.contains("# Kubernetes-managed hosts file.") && text.lines().any(|l| l.ends_with("\tidentity")),
        "{text}"
    );
    assert_eq!(ns.kubectl.field("pod identity", "/status/qosClass"), json!("Burstable"));

    let forbidden = pod(
        "root",
        "id",
        json!({"securityContext": {"runAsNonRoot": true}}),
        json!({}),
    );
    ns.kubectl.apply(&forbidden.to_string());
    eventually("a root image is not run as non-root", 60, || {
        let waiting = ns
            .kubectl
            .field("pod root", "/status/containerStatuses/0/state/waiting");
        let says = waiting["message"]
            .as_str()
            .is_some_and(|m| m.contains("container has runAsNonRoot and image will run as root"));
        if waiting["reason"] == "CreateContainerConfigError" && says {
            Ok(())
        } else {
            Err(waiting)
        }
    });
}

#[test]
fn an_image_that_is_nowhere_is_waited_for_with_back_off() {
    let ns = Namespace::new("image");
    let never = json!({"image": "steersman.local/nothing:1", "imagePullPolicy": "Never"});
    ns.kubectl.apply(&pod("never", "true", never, json!({})).to_string());
    eventually_eq(
        "an image that may not be pulled",
        60,
        json!("ErrImageNeverPull"),
        || {
            ns.kubectl
                .field("pod never", "/status/containerStatuses/0/state/waiting/reason")
        },
    );
    let message = ns
        .kubectl
        .field("pod never", "/status/containerStatuses/0/state/waiting/message");
    assert_eq!(
        message,
        json!("Container image \"steersman.local/nothing:1\" is not present with pull policy of Never")
    );
    let pull = json!({"image": "steersman.local/nothing:1", "imagePullPolicy": "IfNotPresent"});
    ns.kubectl.apply(&pod("pulled", "true", pull, json!({})).to_string());
    eventually("an image that cannot be pulled", 60, || {
        let reason = ns
            .kubectl
            .field("pod pulled", "/status/containerStatuses/0/state/waiting/reason");
        if reason == "ImagePullBackOff" {
            Ok(())
        } else {
            Err(reason)
        }
    });
}
