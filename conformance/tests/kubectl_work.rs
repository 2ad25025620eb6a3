//! kubectl as people work with it day by day: apply and diff, output forms, events, tokens, copies, debugging.

use serde_json::{Value, json};
use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Namespace, WEB_IMAGE, eventually, manifest};

fn map(data: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"a": "1"}}, "data": data})
        .to_string()
}

#[test]
fn apply_changes_what_the_file_says_and_leaves_the_rest() {
    let ns = Namespace::new("apply");
    ns.kubectl.apply(&map(&json!({"mine": "1", "gone": "soon"})));
    let _ = ns
        .kubectl
        .run_of(&[
            "patch",
            "configmap",
            "c",
            "--type",
            "merge",
            "-p",
            r#"{"data":{"theirs":"2"}}"#,
        ])
        .ok();
    let again = ns
        .kubectl
        .run_with(&["apply", "-f", "-"], &map(&json!({"mine": "1", "gone": "soon"})))
        .ok();
    assert_eq!(again.trim(), "configmap/c unchanged");
    let changed = map(&json!({"mine": "3"}));
    let diff = ns.kubectl.run_with(&["diff", "-f", "-"], &changed);
    assert_eq!(diff.code, 1, "{diff:?}");
    assert!(
        diff.stdout.contains("-  gone: soon") && diff.stdout.contains("+  mine: \"3\""),
        "{}",
        diff.stdout
    );
    let dry = ns
        .kubectl
        .run_with(&["apply", "--dry-run=server", "-f", "-"], &changed)
        .ok();
    assert_eq!(dry.trim(), "configmap/c configured (server dry run)");
    let done = ns.kubectl.run_with(&["apply", "-f", "-"], &changed).ok();
    assert_eq!(done.trim(), "configmap/c configured");
    assert_eq!(
        ns.kubectl.field("configmap c", "/data"),
        json!({"mine": "3", "theirs": "2"})
    );
    let same = ns.kubectl.run_with(&["diff", "-f", "-"], &changed);
    assert_eq!((same.code, same.stdout.as_str()), (0, ""));
}

#[test]
fn output_comes_in_every_form_that_kubectl_has() {
    let ns = Namespace::new("output");
    let _ = ns.kubectl.run("create configmap one --from-literal=k=v").ok();
    let _ = ns.kubectl.run("create configmap two --from-literal=k=w").ok();
    let run = |args: &str| ns.kubectl.run(args).ok();
    assert_eq!(run("get configmap one -o jsonpath={.data.k}"), "v");
    assert_eq!(
        run("get configmaps one two -o custom-columns=N:.metadata.name,K:.data.k --no-headers"),
        "one   v\ntwo   w\n"
    );
    assert_eq!(run("get configmap one -o go-template={{.data.k}}"), "v");
    assert!(run("get configmap one -o yaml").contains("  k: v\n"));
    assert!(run("get configmap one --show-labels").contains("<none>"));
    let sorted = run("get configmaps --sort-by=.metadata.name --no-headers");
    assert!(sorted.find("one") < sorted.find("two"), "{sorted}");
    assert!(run("describe configmap one").contains("Data\n====\nk:\n----\nv\n"));
    assert_eq!(run("get configmap none --ignore-not-found"), "");
    let wide = run("get configmaps --all-namespaces");
    assert!(
        wide.starts_with("NAMESPACE") && wide.contains("kube-root-ca.crt"),
        "{wide}"
    );
    assert!(run("api-versions").contains("apps/v1\n"));
    assert!(run("get --raw /openapi/v3").contains("apis/apps/v1"));
}

#[test]
fn objects_are_made_and_changed_by_subcommands() {
    let ns = Namespace::new("generate");
    let run = |args: &str| ns.kubectl.run(args).ok();
    let _ = run(&format!("create deployment web --image={WEB_IMAGE} --replicas=0"));
    let _ = run("set env deployment/web COLOUR=blue");
    let _ = run("set resources deployment/web --limits=cpu=200m,memory=64Mi --requests=cpu=10m");
    let container = ns.kubectl.field("deployment web", "/spec/template/spec/containers/0");
    assert_eq!(container["env"], json!([{"name": "COLOUR", "value": "blue"}]));
    assert_eq!(
        container["resources"],
        json!({"limits": {"cpu": "200m", "memory": "64Mi"}, "requests": {"cpu": "10m"}})
    );
    let _ = run("annotate deployment web note=hello");
    assert_eq!(
        ns.kubectl.field("deployment web", "/metadata/annotations/note"),
        json!("hello")
    );
    let _ = run("create secret generic s --from-literal=p=geheim");
    assert_eq!(ns.kubectl.field("secret s", "/data/p"), json!("Z2VoZWlt"));
    let _ = run("create role reader --verb=get,list --resource=configmaps");
    let _ = run(&format!(
        "create rolebinding readers --role=reader --serviceaccount={}:default",
        ns.name
    ));
    let who = format!("--as=system:serviceaccount:{}:default", ns.name);
    eventually_eq("the account may read", 10, "yes\n".to_owned(), || {
        ns.kubectl.run(&format!("auth can-i list configmaps {who}")).stdout
    });
    assert_eq!(
        ns.kubectl.run(&format!("auth can-i delete configmaps {who}")).stdout,
        "no\n"
    );
    let _ = run("create quota q --hard=pods=5");
    let _ = run("create priorityclass bench-none --value=1 --dry-run=server");
    let _ = run("create poddisruptionbudget b --selector=app=web --min-available=1");
    let _ = run("autoscale deployment web --min=1 --max=3 --cpu=50%");
    assert_eq!(
        ns.kubectl.field("horizontalpodautoscaler web", "/spec/maxReplicas"),
        json!(3)
    );
    let _ = run("create ingress i --rule=example.com/=web:80");
    assert_eq!(
        ns.kubectl.field("ingress i", "/spec/rules/0/host"),
        json!("example.com")
    );
    let token = run("create token default --duration=10m");
    assert_eq!(token.trim().split('.').count(), 3, "a signed token has three parts");
    let replaced = ns
        .kubectl
        .run_with(&["replace", "--force", "-f", "-"], &map(&json!({"x": "y"})));
    assert!(
        replaced.code == 0 || replaced.stderr.contains("NotFound"),
        "{replaced:?}"
    );
}

#[test]
fn a_pod_is_run_waited_for_copied_to_debugged_and_shows_its_events() {
    let ns = Namespace::new("work");
    let _ = ns.kubectl.run_of(&["apply", "-f", &manifest("client.yaml")]).ok();
    let _ = ns
        .kubectl
        .run("wait pod/client --for=condition=Ready --timeout=60s")
        .ok();
    let file = std::env::temp_dir().join(format!("{}.txt", ns.name));
    std::fs::write(&file, "to and fro\n").expect("a temporary file");
    let back = file.with_extension("back");
    let copied = ns
        .kubectl
        .run_of(&["cp", &file.to_string_lossy(), "client:/tmp/there.txt"]);
    let returned = ns
        .kubectl
        .run_of(&["cp", "client:/tmp/there.txt", &back.to_string_lossy()]);
    let seen = std::fs::read_to_string(&back);
    let _ = std::fs::remove_file(&file);
    let _ = std::fs::remove_file(&back);
    assert_eq!((copied.code, returned.code), (0, 0), "{copied:?} {returned:?}");
    assert_eq!(seen.ok().as_deref(), Some("to and fro\n"));

    // It waits for its input, so nothing is printed before kubectl is attached.
    let arguments =
        "run once --image=busybox:1.36 --image-pull-policy=IfNotPresent --restart=Never --rm --stdin --quiet -- cat";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let once = ns.kubectl.run_with(&arguments, "through and through\n");
    assert!(once.stdout.contains("through and through"), "{once:?}");
    let _ = ns.kubectl.run("wait pod/once --for=delete --timeout=60s").ok();

    let _ = ns
        .kubectl
        .run_of(&[
            "debug",
            "client",
            "--image=busybox:1.36",
            "--image-pull-policy=IfNotPresent",
            "--container=extra",
            "--profile=general",
            "--",
            "sh",
            "-c",
            "echo helped",
        ])
        .ok();
    eventually("the debugging container has ended", 60, || {
        let states = ns.kubectl.field(
            "pod client",
            "/status/ephemeralContainerStatuses/0/state/terminated/exitCode",
        );
        if states == json!(0) { Ok(()) } else { Err(states) }
    });
    assert_eq!(ns.kubectl.run("logs client -c extra").ok(), "helped\n");
    let events = ns.kubectl.run("events --for pod/client").ok();
    for reason in ["Scheduled", "Created", "Started"] {
        assert!(events.contains(reason), "{reason} in {events}");
    }
}

#[test]
fn a_rollout_is_paused_resumed_and_restarted() {
    let ns = Namespace::new("pause");
    let run = |args: &str| ns.kubectl.run(args).ok();
    let _ = run(&format!("create deployment web --image={WEB_IMAGE} --replicas=1"));
    let _ = run("rollout status deployment/web --timeout=90s");
    let _ = run("rollout pause deployment/web");
    let _ = run("set image deployment/web web=steersman.local/web:2");
    eventually("the pause is observed", 20, || {
        let seen = ns.kubectl.field("deployment web", "/status/observedGeneration");
        let wanted = ns.kubectl.field("deployment web", "/metadata/generation");
        if seen == wanted { Ok(()) } else { Err((seen, wanted)) }
    });
    assert_eq!(run("get replicasets -o name").lines().count(), 1);
    let _ = run("rollout resume deployment/web");
    let _ = run("rollout status deployment/web --timeout=90s");
    assert_eq!(run("get replicasets -o name").lines().count(), 2);
    let _ = run("rollout restart deployment/web");
    let _ = run("rollout status deployment/web --timeout=90s");
    assert_eq!(run("get replicasets -o name").lines().count(), 3);
    let undone = run("rollout undo deployment/web --to-revision=1");
    assert_eq!(undone.trim(), "deployment.apps/web rolled back");
    let _ = run("rollout status deployment/web --timeout=90s");
    eventually_eq("the first image again", 30, json!(WEB_IMAGE), || {
        ns.kubectl
            .field("deployment web", "/spec/template/spec/containers/0/image")
    });
}

#[test]
fn a_secret_keeps_a_token_of_its_account_until_either_goes() {
    let ns = Namespace::new("kept-token");
    let _ = ns.kubectl.run("create serviceaccount robot").ok();
    let keep = |name: &str| {
        let annotations = json!({"kubernetes.io/service-account.name": "robot"});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": name, "annotations": annotations}});
        ns.kubectl.apply(&secret.to_string());
        let script = format!("get secret {name} -o go-template={{{{.data.token|base64decode}}}}");
        let token = eventually("the secret is filled", 30, || {
            let got = ns.kubectl.run(&script);
            if got.code == 0 && got.stdout.split('.').count() == 3 {
                Ok(got.stdout)
            } else {
                Err(got)
            }
        });
        let data = ns.kubectl.field(&format!("secret {name}"), "/data");
        let keys: Vec<&String> = data.as_object().into_iter().flat_map(|data| data.keys()).collect();
        assert_eq!(keys, ["ca.crt", "namespace", "token"]);
        token
    };
    let who = |token: &str| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let args = ["create", "--validate=false", "-o", "json", "-f", "-"];
        let review: Value = serde_json::from_str(&ns.kubectl.run_with(&args, &review.to_string()).ok()).expect("JSON");
        review.pointer("/status/user/username").cloned().unwrap_or_default()
    };
    let (first, second) = (keep("first"), keep("second"));
    let robot = json!(format!("system:serviceaccount:{}:robot", ns.name));
    // A server's cache may be behind the secret for a moment, and it may remember for some seconds what a token was worth.
    eventually_eq("the token is the account's", 30, robot.clone(), || who(&first));
    eventually_eq("the other one too", 30, robot, || who(&second));
    let _ = ns.kubectl.run("delete secret first").ok();
    eventually_eq("a token ends with its secret", 30, Value::Null, || who(&first));
    let _ = ns.kubectl.run("delete serviceaccount robot").ok();
    eventually_eq("a token ends with its account", 30, Value::Null, || who(&second));
    eventually("the secret goes with its account", 30, || {
        let got = ns.kubectl.run("get secret second");
        if got.stderr.contains("NotFound") {
            Ok(())
        } else {
            Err(got)
        }
    });
}
