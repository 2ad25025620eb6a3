//! A worker over a runtime in memory: from nothing to running to gone, with any call failing on the way.

use std::path::Path;

use async_trait::async_trait;
use parking_lot::Mutex;
use steersman_cri::fake::Fake;
use steersman_types::Typed;

use super::*;
use crate::context::{PodApi, WriteError};
use crate::dns::DnsSettings;
use crate::events::Sink;
use crate::images::Images;
use crate::runtime::resources::NodeLimits;
use crate::sources::fake::FakeObjects;
use crate::turns::Turns;
use crate::volumes::Volumes;

/// What was written to the API.
#[derive(Default)]
struct Written {
    statuses: Vec<PodStatus>,
    deleted: bool,
}

struct Api(Arc<Mutex<Written>>);

#[async_trait]
impl PodApi for Api {
    async fn write_status(&self, _: &Pod, _: &PodStatus, new: &PodStatus) -> Result<(), WriteError> {
        self.0.lock().statuses.push(new.clone());
        Ok(())
    }
    async fn delete(&self, _: &Pod) -> Result<(), WriteError> {
        self.0.lock().deleted = true;
        Ok(())
    }
    async fn runtime_handler(&self, class: &str) -> Result<String, String> {
        Ok(class.to_owned())
    }
}

/// Type, reason, message.
type Events = Arc<Mutex<Vec<(String, String, String)>>>;

struct Bench {
    fake: Fake,
    written: Arc<Mutex<Written>>,
    events: Events,
    assigned: watch::Sender<Assigned>,
    wake: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn context(fake: &Fake, written: &Arc<Mutex<Written>>, events: &Events, dir: &Path) -> Context {
    for controller in ["cpu", "memory", "pids"] {
        std::fs::create_dir_all(dir.join("cgroup").join(controller)).unwrap();
    }
    let objects = Arc::new(FakeObjects::default());
    let runtime: Arc<dyn steersman_cri::Runtime> = Arc::new(fake.clone());
    Context {
        api: Arc::new(Api(written.clone())),
        sink: Sink::Kept(events.clone()),
        services: Box::new(Vec::new),
        volumes: Volumes::new(dir, objects.clone()),
        objects,
        images: Images::new(runtime.clone(), None, dir),
        turns: Turns::default(),
        cgroups: crate::cgroups::Cgroups::at(&dir.join("cgroup"), "", true, 100_000, -1),
        dns: DnsSettings::default(),
        node: NodeLimits {
            memory: 1 << 30,
            quota: true,
            quota_period: 100_000,
            cgroup_v2: false,
            single_oom_kill: true,
            swap: crate::runtime::resources::Swap::default(),
        },
        allocatable: BTreeMap::new(),
        allocations: crate::allocations::Allocations::default(),
        pressure: Arc::default(),
        probed: Arc::default(),
        host_ips: vec!["192.0.2.1".into()],
        cluster_domain: "cluster.local".into(),
        root: dir.to_owned(),
        pod_logs: dir.join("logs"),
        container_logs: dir.join("links"),
        seccomp_default: false,
        max_backoff_seconds: 300,
        sync_period: Duration::from_secs(60),
        runtime,
    }
}

fn pod(spec: serde_json::Value) -> Pod {
    Pod::from_value(&serde_json::json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn start(pod: Pod, fake: Fake) -> Bench {
    start_on(pod, fake, Turns::default())
}

fn start_on(pod: Pod, fake: Fake, turns: Turns) -> Bench {
    fake.add_image("i:1");
    let dir = tempfile::tempdir().unwrap();
    let (written, events) = (Arc::default(), Arc::default());
    let context = Arc::new(Context {
        turns,
        ..context(&fake, &written, &events, dir.path())
    });
    let (assigned, receiver) = watch::channel(Assigned {
        pod: Arc::new(pod),
        gone: false,
        evicted: None,
    });
    let wake = Arc::new(Notify::new());
    let task = tokio::spawn(Worker::new(context, receiver, wake.clone(), None).run());
    Bench {
        fake,
        written,
        events,
        assigned,
        wake,
        task,
        _dir: dir,
    }
}

impl Bench {
    /// Lets time pass until the condition holds; a minute of a worker's time is plenty for all of these.
    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..3000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "never: {what}; calls {:?}; events {:?}",
            self.fake.calls(),
            self.events.lock()
        );
    }

    fn last(&self) -> PodStatus {
        self.written.lock().statuses.last().cloned().unwrap_or_default()
    }

    fn phase(&self) -> String {
        self.last().phase.unwrap_or_default()
    }

    fn delete(&self) {
        let mut pod = Pod::clone(&self.assigned.borrow().pod);
        pod.metadata.deletion_timestamp = Some(steersman_types::Time(Timestamp::now()));
        pod.metadata.deletion_grace_period_seconds = Some(5);
        self.assigned.send_replace(Assigned {
            pod: Arc::new(pod),
            gone: false,
            evicted: None,
        });
    }

    fn reasons(&self) -> Vec<String> {
        self.events.lock().iter().map(|(_, reason, _)| reason.clone()).collect()
    }
}

fn simple() -> Pod {
    pod(
        serde_json::json!({"containers": [{"name": "a", "image": "i:1", "imagePullPolicy": "IfNotPresent"},
        {"name": "b", "image": "i:1", "imagePullPolicy": "IfNotPresent"}],
        "volumes": [{"name": "v", "emptyDir": {}}], "restartPolicy": "Always"}),
    )
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_reports_it_and_goes_when_deleted() {
    let bench = start(simple(), Fake::default());
    bench.until("running", |b| b.phase() == "Running").await;
    assert_eq!(bench.fake.running().len(), 2);
    assert_eq!(bench.last().pod_ip.as_deref(), Some("10.0.0.7"));
    assert_eq!(
        bench.reasons(),
        ["Pulled", "Created", "Started", "Pulled", "Created", "Started"]
    );
    bench.delete();
    bench.until("gone", |b| b.task.is_finished()).await;
    assert!(bench.written.lock().deleted);
    assert_eq!(bench.phase(), "Failed", "both were ended by their signal");
    assert!(bench.fake.configs().is_empty());
    assert!(bench.reasons().contains(&"Killing".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_its_turn_and_goes_without_a_word_when_it_is_deleted_first() {
    let turns = Turns::new(1);
    let taken = turns.clone();
    let hangs = tokio::spawn(async move { taken.sandbox(std::future::pending::<()>()).await });
    tokio::task::yield_now().await;
    let bench = start_on(simple(), Fake::default(), turns.clone());
    bench.until("reported", |b| b.phase() == "Pending").await;
    assert!(!bench.fake.calls().contains(&"RunPodSandbox"));
    bench.delete();
    bench.until("gone", |b| b.task.is_finished()).await;
    assert!(!bench.fake.calls().contains(&"RunPodSandbox"));

    let next = start_on(simple(), Fake::default(), turns);
    next.until("running: what hangs does not count for ever", |b| {
        b.phase() == "Running"
    })
    .await;
    hangs.abort();
}

#[tokio::test(start_paused = true)]
async fn whatever_call_fails_the_pod_runs_in_the_end_and_no_container_runs_twice() {
    let whole = start(simple(), Fake::default());
    whole
        .until("running", |b| b.phase() == "Running" && b.fake.running().len() == 2)
        .await;
    let calls = whole.fake.calls().len();
    for n in 0..calls {
        for code in [tonic::Code::Unavailable, tonic::Code::Unknown] {
            let fake = Fake::default();
            fake.fail_at(n, code, "injected");
            let bench = start(simple(), fake);
            let what = format!("running although call {n} failed");
            bench
                .until(&what, |b| b.phase() == "Running" && b.fake.running().len() == 2)
                .await;
            let mut names = bench.fake.running();
            names.sort();
            assert_eq!(names, ["a", "b"], "call {n}");
            bench.delete();
            bench.until("gone", |b| b.task.is_finished()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_call_fails_while_stopping_the_pod_is_gone_in_the_end() {
    let whole = start(simple(), Fake::default());
    whole.until("running", |b| b.phase() == "Running").await;
    let before = whole.fake.calls().len();
    whole.delete();
    whole.until("gone", |b| b.task.is_finished()).await;
    for n in 0..whole.fake.calls().len() - before {
        let bench = start(simple(), Fake::default());
        bench.until("running", |b| b.phase() == "Running").await;
        bench.fake.fail_at(n, tonic::Code::Unavailable, "injected");
        bench.delete();
        bench
            .until(&format!("gone although call {n} failed"), |b| b.task.is_finished())
            .await;
        assert!(
            bench.written.lock().deleted && bench.fake.running().is_empty(),
            "call {n}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_counted_and_the_second_one_waits() {
    let bench = start(simple(), Fake::default());
    bench.until("running", |b| b.phase() == "Running").await;
    let crash = |b: &Bench| {
        b.fake.set_now(Timestamp::now().as_second());
        assert!(b.fake.exit("a", 3, "Error"));
        b.wake.notify_one();
    };
    let of_a = |b: &Bench| {
        b.last()
            .container_statuses
            .unwrap_or_default()
            .into_iter()
            .find(|c| c.name == "a")
            .unwrap_or_default()
    };
    crash(&bench);
    bench
        .until("restarted", |b| {
            of_a(b).restart_count == 1 && b.fake.running().len() == 2
        })
        .await;
    crash(&bench);
    let waiting = |b: &Bench| of_a(b).state.and_then(|s| s.waiting).and_then(|w| w.reason);
    bench
        .until("waiting", |b| waiting(b).as_deref() == Some("CrashLoopBackOff"))
        .await;
    let last = of_a(&bench).last_state.and_then(|s| s.terminated).map(|t| t.exit_code);
    assert_eq!((last, of_a(&bench).restart_count), (Some(3), 1));
    assert_eq!(bench.fake.running(), ["b"]);
    assert_eq!(bench.phase(), "Running");
    assert!(
        bench
            .events
            .lock()
            .iter()
            .any(|(_, r, m)| r == "BackOff" && m.starts_with("Back-off restarting failed container a in pod p_ns(u)"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_worker_takes_over_what_runs() {
    let bench = start(simple(), Fake::default());
    bench.until("running", |b| b.phase() == "Running").await;
    bench.task.abort();
    let mut pod = simple();
    pod.status = Some(bench.last());
    let ids = |b: &Bench| -> Vec<_> {
        b.last()
            .container_statuses
            .unwrap_or_default()
            .into_iter()
            .map(|c| c.container_id)
            .collect()
    };
    let before = bench.fake.calls().len();
    let again = start(pod, bench.fake.clone());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(
        again.written.lock().statuses.is_empty(),
        "nothing changed, so nothing is written: {:?}",
        ids(&again)
    );
    let made = again.fake.calls()[before..]
        .iter()
        .any(|c| matches!(*c, "CreateContainer" | "StopContainer" | "RunPodSandbox"));
    assert!(!made, "{:?}", &again.fake.calls()[before..]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_completes_gives_back_its_volumes_and_stays() {
    let spec = serde_json::json!({"containers": [{"name": "a", "image": "i:1", "imagePullPolicy": "IfNotPresent"}],
        "volumes": [{"name": "v", "emptyDir": {}}], "restartPolicy": "Never"});
    let bench = start(pod(spec), Fake::default());
    bench.until("running", |b| b.phase() == "Running").await;
    let volumes = bench._dir.path().join("pods/u");
    assert!(volumes.exists());
    bench.fake.exit("a", 0, "Completed");
    bench.wake.notify_one();
    bench
        .until("succeeded", |b| b.phase() == "Succeeded" && !volumes.exists())
        .await;
    assert!(!bench.task.is_finished() && !bench.written.lock().deleted);
    assert_eq!(bench.fake.configs().len(), 1, "its container stays, for its log");
    bench.delete();
    bench.until("gone", |b| b.task.is_finished()).await;
}

#[tokio::test(start_paused = true)]
async fn readiness_that_somebody_else_took_away_is_written_again() {
    let bench = start(simple(), Fake::default());
    bench.until("running", |b| b.phase() == "Running").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = bench.written.lock().statuses.len();
    let mut pod = simple();
    let mut status = bench.last();
    for c in status.conditions.iter_mut().flatten().filter(|c| c.type_ == "Ready") {
        c.status = "False".into();
    }
    pod.status = Some(status);
    bench.assigned.send_replace(Assigned {
        pod: Arc::new(pod),
        gone: false,
        evicted: None,
    });
    bench
        .until("written again", |b| b.written.lock().statuses.len() > before)
        .await;
    let ready = bench
        .last()
        .conditions
        .unwrap_or_default()
        .into_iter()
        .find(|c| c.type_ == "Ready");
    assert_eq!(ready.map(|c| c.status).as_deref(), Some("True"));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_does_not_wait_for_its_hook() {
    let container = serde_json::json!({"name": "a", "image": "i:1", "imagePullPolicy": "IfNotPresent",
        "lifecycle": {"postStart": {"sleep": {"seconds": 100_000}}}});
    let bench = start(pod(serde_json::json!({ "containers": [container] })), Fake::default());
    bench.until("started", |b| !b.fake.running().is_empty()).await;
    bench.delete();
    bench.until("gone", |b| b.task.is_finished()).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_node_ends_is_failed_once_its_containers_are_stopped() {
    let bench = start(simple(), Fake::default());
    bench.until("running", |b| b.phase() == "Running").await;
    let before = bench.written.lock().statuses.len();
    let why = Trouble {
        reason: "Evicted".into(),
        message: "The node was low on resource: memory. ".into(),
    };
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        ..PodCondition::default()
    };
    bench.assigned.send_modify(|assigned| {
        assigned.evicted = Some(Arc::new(Evicted {
            why,
            grace: 1,
            condition: Some(condition),
        }));
    });
    bench.until("over", |b| b.phase() == "Failed").await;
    assert!(bench.fake.running().is_empty());
    let last = bench.last();
    assert_eq!(last.reason.as_deref(), Some("Evicted"));
    assert_eq!(last.message.as_deref(), Some("The node was low on resource: memory. "));
    let of = |kind: &str| last.conditions.iter().flatten().find(|c| c.type_ == kind).cloned();
    assert_eq!(
        of("DisruptionTarget").and_then(|c| c.reason).as_deref(),
        Some("TerminationByKubelet")
    );
    assert_eq!(of("Ready").map(|c| c.status).as_deref(), Some("False"));
    for status in &bench.written.lock().statuses[before..] {
        let live = status
            .container_statuses
            .iter()
            .flatten()
            .any(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
        assert!(
            !live || status.phase.as_deref() == Some("Running"),
            "not over while something runs"
        );
    }
    bench.delete();
    bench.until("gone", |b| b.task.is_finished()).await;
}
