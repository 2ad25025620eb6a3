//! Elections on a simulated clock, against a lease store in memory that can fail.

use super::*;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[derive(Default)]
struct Memory {
    lease: Mutex<Option<Lease>>,
    broken: AtomicBool,
}

fn status(code: u16, reason: &str) -> ApiError {
    ApiError::Status {
        code,
        reason: reason.into(),
        message: reason.into(),
        details: serde_json::Value::Null,
    }
}

fn version(lease: &Lease) -> u64 {
    lease
        .metadata
        .resource_version
        .as_deref()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

impl Memory {
    fn reachable(&self) -> Result<(), ApiError> {
        if self.broken.load(Ordering::SeqCst) {
            Err(ApiError::Timeout)
        } else {
            Ok(())
        }
    }

    fn holder(&self) -> String {
        let lease = self.lease.lock().clone();
        lease
            .and_then(|l| l.spec)
            .and_then(|s| s.holder_identity)
            .unwrap_or_default()
    }
}

impl LeaseStore for Memory {
    fn get(&self) -> BoxFuture<'_, Result<Lease, ApiError>> {
        Box::pin(async move {
            self.reachable()?;
            self.lease.lock().clone().ok_or_else(|| status(404, "NotFound"))
        })
    }
    fn create(&self, mut lease: Lease) -> BoxFuture<'_, Result<Lease, ApiError>> {
        Box::pin(async move {
            self.reachable()?;
            let mut slot = self.lease.lock();
            if slot.is_some() {
                return Err(status(409, "AlreadyExists"));
            }
            lease.metadata.resource_version = Some("1".into());
            *slot = Some(lease.clone());
            Ok(lease)
        })
    }
    fn update(&self, mut lease: Lease) -> BoxFuture<'_, Result<Lease, ApiError>> {
        Box::pin(async move {
            self.reachable()?;
            let mut slot = self.lease.lock();
            let current = slot.as_ref().map_or(0, version);
            if version(&lease) != current {
                return Err(status(409, "Conflict"));
            }
            lease.metadata.resource_version = Some((current + 1).to_string());
            *slot = Some(lease.clone());
            Ok(lease)
        })
    }
}

struct Running {
    task: tokio::task::JoinHandle<Outcome>,
    stop: CancellationToken,
    leading: Arc<AtomicUsize>,
}

fn compete(store: &Arc<Memory>, name: &str, leading: &Arc<AtomicUsize>) -> Running {
    let stop = CancellationToken::new();
    let (store, name, token, count) = (store.clone(), name.to_owned(), stop.clone(), leading.clone());
    let leading = leading.clone();
    let task = tokio::spawn(async move {
        let config = Config::new("kube-system", "test", name);
        run(
            &config,
            store.as_ref(),
            &Timestamp::now,
            None,
            token,
            |leading| async move {
                count.fetch_add(1, Ordering::SeqCst);
                leading.cancelled().await;
                count.fetch_sub(1, Ordering::SeqCst);
            },
        )
        .await
    });
    Running { task, stop, leading }
}

async fn seconds(n: u64) {
    // In steps, so that a state that lasts only a moment would be seen by the tasks.
    for _ in 0..n * 10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn exactly_one_of_three_leads() {
    let store = Arc::new(Memory::default());
    let leading = Arc::new(AtomicUsize::new(0));
    let all: Vec<Running> = ["a", "b", "c"].iter().map(|n| compete(&store, n, &leading)).collect();
    for _ in 0..60 {
        seconds(1).await;
        assert_eq!(leading.load(Ordering::SeqCst), 1);
    }
    drop(all);
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_within_seconds_and_counts_a_transition() {
    let store = Arc::new(Memory::default());
    let leading = Arc::new(AtomicUsize::new(0));
    let first = compete(&store, "a", &leading);
    seconds(1).await;
    let _second = compete(&store, "b", &leading);
    seconds(3).await;
    first.stop.cancel();
    assert_eq!(first.task.await.ok(), Some(Outcome::Released));
    seconds(5).await;
    assert_eq!(store.holder(), "b");
    let transitions = store
        .lease
        .lock()
        .clone()
        .and_then(|l| l.spec)
        .and_then(|s| s.lease_transitions);
    assert_eq!(transitions, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_within_ten_seconds() {
    let store = Arc::new(Memory::default());
    let leading = Arc::new(AtomicUsize::new(0));
    let first = compete(&store, "a", &leading);
    seconds(3).await;
    assert_eq!(leading.load(Ordering::SeqCst), 1);
    store.broken.store(true, Ordering::SeqCst);
    let started = Instant::now();
    assert_eq!(first.task.await.ok(), Some(Outcome::Lost));
    assert!(started.elapsed() <= Duration::from_secs(10));
    seconds(1).await;
    assert_eq!(first.leading.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_replaced_only_after_its_lease_ran_out_on_our_clock() {
    let store = Arc::new(Memory::default());
    let leading = Arc::new(AtomicUsize::new(0));
    let first = compete(&store, "a", &leading);
    seconds(3).await;
    first.task.abort();
    let started = Instant::now();
    let _second = compete(&store, "b", &leading);
    while store.holder() == "a" {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let waited = started.elapsed();
    assert!(
        waited >= Duration::from_secs(15) && waited < Duration::from_secs(21),
        "{waited:?}"
    );
}

#[test]
fn timings_that_contradict_each_other_are_refused() {
    let mut config = Config::new("a", "b", "c".into());
    assert_eq!(config.validate(), Ok(()));
    config.renew_deadline = Duration::from_secs(15);
    assert!(config.validate().is_err());
}
