//! Jobs and CronJobs as a user works with them, and what keeps workloads in bounds: quotas, disruption budgets, pod
//! security, rules about which pods share a node.

use serde_json::Value;
use steersman_conformance::wait::eventually_eq;
use steersman_conformance::{Namespace, WEB_IMAGE, eventually};

fn job(spec: &str, script: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: j}}\nspec:\n  {spec}\n  template:\n    spec:\n      restartPolicy: Never\n      \
         containers: [{{name: c, image: 'busybox:1.36', command: [sh, -c, '{script}']}}]\n"
    )
}

/// `Type=Status Reason` of a job's conditions.
fn conditions(ns: &Namespace) -> Vec<String> {
    let job = ns.kubectl.get("job j");
    let all = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
    all.iter()
        .map(|c| format!("{}={} {}", text(c, "type"), text(c, "status"), text(c, "reason")))
        .collect()
}

#[test]
fn an_indexed_job_runs_each_index_once_and_goes_when_its_time_is_over() {
    let ns = Namespace::new("job-indexed");
    let spec = "completions: 3\n  parallelism: 2\n  completionMode: Indexed\n  ttlSecondsAfterFinished: 10";
    let script = "echo index $JOB_COMPLETION_INDEX on $(hostname); sleep 1";
    ns.kubectl.apply(&job(spec, script));
    eventually_eq("the log of index 2", 60, "index 2 on j-2".to_owned(), || {
        let logs = "logs -l batch.kubernetes.io/job-completion-index=2";
        ns.kubectl.run(logs).stdout.trim().to_owned()
    });
    // What it waited for and not what is there then: nothing, when ten more seconds have passed.
    let job = ns
        .kubectl
        .run("wait --for=condition=Complete job/j --timeout=60s -o json")
        .ok();
    let status = serde_json::from_str::<Value>(&job).expect("kubectl prints JSON")["status"].clone();
    assert_eq!(
        (&status["succeeded"], &status["completedIndexes"]),
        (&3.into(), &"0-2".into()),
        "{status}"
    );
    eventually("the job gone", 30, || {
        let left = ns.kubectl.run("get jobs,pods -o name").ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn a_job_that_fails_too_often_says_so() {
    let ns = Namespace::new("job-fails");
    ns.kubectl.apply(&job("backoffLimit: 0", "exit 3"));
    eventually_eq(
        "the conditions",
        60,
        vec![
            "FailureTarget=True BackoffLimitExceeded".to_owned(),
            "Failed=True BackoffLimitExceeded".to_owned(),
        ],
        || conditions(&ns),
    );
    assert_eq!(ns.kubectl.field("job j", "/status/failed"), 1);
}

#[test]
fn a_suspended_job_has_no_pods_until_it_is_resumed() {
    let ns = Namespace::new("job-suspended");
    ns.kubectl.apply(&job("suspend: true", "exit 0"));
    eventually_eq(
        "the condition",
        30,
        vec!["Suspended=True JobSuspended".to_owned()],
        || conditions(&ns),
    );
    assert_eq!(ns.kubectl.run("get pods -o name").ok(), "");
    let _ = ns
        .kubectl
        .run_of(&["patch", "job", "j", "-p", r#"{"spec":{"suspend":false}}"#])
        .ok();
    let _ = ns.kubectl.run("wait --for=condition=Complete job/j --timeout=60s").ok();
}

#[test]
fn a_job_can_be_made_from_a_cron_job() {
    let ns = Namespace::new("cron");
    let _ = ns
        .kubectl
        .run_of(&[
            "create",
            "cronjob",
            "c",
            "--image=busybox:1.36",
            "--schedule=0 0 1 1 *",
            "--",
            "true",
        ])
        .ok();
    let _ = ns.kubectl.run("create job j --from=cronjob/c").ok();
    let _ = ns.kubectl.run("wait --for=condition=Complete job/j --timeout=60s").ok();
    let _ = ns.kubectl.run("delete cronjob c").ok();
    eventually("what it owned gone", 30, || {
        let left = ns.kubectl.run("get jobs,pods -o name").ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn a_quota_is_counted_and_kept() {
    let ns = Namespace::new("quota");
    // Secrets: some distributions put more than one ConfigMap into every namespace.
    let _ = ns.kubectl.run("create quota q --hard=count/secrets=1").ok();
    let used = || ns.kubectl.field("quota q", "/status/used/count~1secrets");
    eventually_eq("the count", 30, Value::from("0"), used);
    let _ = ns.kubectl.run("create secret generic a").ok();
    let refused = ns.kubectl.run("create secret generic b").refused();
    assert!(
        refused.contains(
            "secrets \"b\" is forbidden: exceeded quota: q, requested: count/secrets=1, used: count/secrets=1, limited: count/secrets=1"
        ),
        "{refused}"
    );
    let _ = ns.kubectl.run("delete secret a").ok();
    eventually_eq("the count", 30, Value::from("0"), used);
}

#[test]
fn a_disruption_budget_lets_go_only_what_it_can_spare() {
    let ns = Namespace::new("budget");
    let _ = ns
        .kubectl
        .run(&format!("create deployment web --image={WEB_IMAGE} --replicas=2"))
        .ok();
    let _ = ns.kubectl.run("create pdb b --selector=app=web --min-available=2").ok();
    let _ = ns.kubectl.run("rollout status deployment/web --timeout=90s").ok();
    eventually_eq("healthy pods", 30, Value::from(2), || {
        ns.kubectl.field("pdb b", "/status/currentHealthy")
    });
    let pod = ns.kubectl.run("get pods -o name").ok();
    let pod = pod
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("pod/")
        .to_owned();
    let namespace = ns.kubectl.field(&format!("pod {pod}"), "/metadata/namespace");
    let namespace = namespace.as_str().unwrap_or_default();
    let eviction = format!(
        r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{pod}","namespace":"{namespace}"}}}}"#
    );
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    let evict = || ns.kubectl.run_with(&["create", "--raw", &path, "-f", "-"], &eviction);
    let refused = evict().refused();
    assert!(
        refused.contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{refused}"
    );
    let _ = ns
        .kubectl
        .run_of(&["patch", "pdb", "b", "-p", r#"{"spec":{"minAvailable":1}}"#])
        .ok();
    eventually_eq("allowed disruptions", 30, Value::from(1), || {
        ns.kubectl.field("pdb b", "/status/disruptionsAllowed")
    });
    let _ = evict().ok();
}

#[test]
fn pods_that_want_to_be_apart_are() {
    let ns = Namespace::new("apart");
    let rule = r#"{"spec":{"template":{"spec":{"affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchLabels":{"app":"web"}}}]}}}}}}"#;
    let _ = ns
        .kubectl
        .run(&format!("create deployment web --image={WEB_IMAGE} --replicas=0"))
        .ok();
    let _ = ns.kubectl.run_of(&["patch", "deployment", "web", "-p", rule]).ok();
    let _ = ns.kubectl.run("scale deployment web --replicas=3").ok();
    let pods = || ns.kubectl.get("pods")["items"].as_array().cloned().unwrap_or_default();
    eventually_eq("two pods placed", 60, 2, || {
        pods().iter().filter(|p| p["spec"]["nodeName"].is_string()).count()
    });
    let nodes: std::collections::BTreeSet<String> = pods()
        .iter()
        .filter_map(|p| p["spec"]["nodeName"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(nodes.len(), 2);
    eventually("the event of the one that has no place", 60, || {
        let events = ns
            .kubectl
            .run("get events --field-selector=reason=FailedScheduling")
            .ok();
        if events.contains("2 node(s) didn't match pod anti-affinity rules") {
            Ok(())
        } else {
            Err(events)
        }
    });
}
