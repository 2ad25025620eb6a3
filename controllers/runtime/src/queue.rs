//! A work queue of keys: each key at most once, never worked on twice at the same time, with back-off per key.
//!
//! Callers: every control loop. As client-go's rate-limited queue: a key added while it is being processed comes again
//! afterwards; [`WorkQueue::retry`] waits 5 ms doubling to 1000 s per key until [`WorkQueue::forget`]; delayed adds keep the
//! earliest time. Bounded by the number of distinct keys. Uses tokio's clock only, so tests can stop it. A queue with a name
//! tells how it is doing ([`crate::queue_metrics`]).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::queue_metrics::{Meter, QueueMetrics};

const FIRST_DELAY: Duration = Duration::from_millis(5);
const MAX_DELAY: Duration = Duration::from_secs(1000);

struct State<K> {
    ready: VecDeque<K>,
    /// Everything in `ready`, and keys added while in `processing`.
    dirty: HashSet<K>,
    /// And since when.
    processing: HashMap<K, Instant>,
    /// When each key of `dirty` was added; only with a meter.
    added: HashMap<K, Instant>,
    meter: Option<Meter>,
    /// Delayed adds by time; the counter keeps entries of the same instant apart.
    timers: BTreeMap<(Instant, u64), K>,
    waiting: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    counter: u64,
    stopped: bool,
}

/// Clones share the queue.
pub struct WorkQueue<K> {
    inner: Arc<(Mutex<State<K>>, Notify)>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<K: Clone + Eq + Hash + Debug + Send + 'static> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash + Debug + Send + 'static> WorkQueue<K> {
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashMap::new(),
            added: HashMap::new(),
            meter: None,
            timers: BTreeMap::new(),
            waiting: HashMap::new(),
            failures: HashMap::new(),
            counter: 0,
            stopped: false,
        };
        Self {
            inner: Arc::new((Mutex::new(state), Notify::new())),
        }
    }

    /// A queue that shows in `metrics` under `name`.
    #[must_use]
    pub fn named(name: &'static str, metrics: &QueueMetrics) -> Self {
        let queue = Self::new();
        let weak = Arc::downgrade(&queue.inner);
        let under_way = move || {
            let inner = weak.upgrade()?;
            let state = inner.0.lock();
            let seconds = || state.processing.values().map(|since| since.elapsed().as_secs_f64());
            Some((seconds().fold(0.0, |sum, one| sum + one), seconds().fold(0.0, f64::max)))
        };
        queue.inner.0.lock().meter = Some(metrics.meter(name, Box::new(under_way)));
        queue
    }

    /// Queues `key` now, unless it is queued already.
    pub fn add(&self, key: K) {
        self.inner.0.lock().add(key);
        self.inner.1.notify_one();
    }

    /// Queues `key` after `delay`; of several delayed adds the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.inner.0.lock().add_at(key, Instant::now() + delay);
        self.inner.1.notify_one();
    }

    /// Queues `key` after a delay that doubles with each call until [`Self::forget`].
    pub fn retry(&self, key: K) {
        let delay = {
            let mut state = self.inner.0.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            let delay = FIRST_DELAY
                .saturating_mul(2u32.saturating_pow(*failures))
                .min(MAX_DELAY);
            *failures = failures.saturating_add(1);
            if let Some(meter) = &state.meter {
                meter.retries.inc();
            }
            delay
        };
        self.add_after(key, delay);
    }

    /// The key succeeded: its next failure starts from the shortest delay.
    pub fn forget(&self, key: &K) {
        self.inner.0.lock().failures.remove(key);
    }

    /// How often [`Self::retry`] was called since the last [`Self::forget`].
    #[must_use]
    pub fn failures(&self, key: &K) -> u32 {
        self.inner.0.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Keys that could be worked on now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.0.lock().ready.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key; the caller must call [`Self::done`] with it. `None` after [`Self::stop`].
    pub async fn get(&self) -> Option<K> {
        loop {
            let next_timer = {
                let mut state = self.inner.0.lock();
                if state.stopped {
                    // Pass the wake-up on: there may be more sleepers than notifications.
                    self.inner.1.notify_one();
                    return None;
                }
                state.fire(Instant::now());
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.inner.1.notify_one();
                    }
                    return Some(key);
                }
                state.timers.keys().next().map(|(at, _)| *at)
            };
            match next_timer {
                None => self.inner.1.notified().await,
                Some(at) => tokio::select! {
                    () = self.inner.1.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
            }
        }
    }

    /// Ends the processing of `key`; if it was added meanwhile it is queued again.
    pub fn done(&self, key: &K) {
        {
            let mut state = self.inner.0.lock();
            let since = state.processing.remove(key);
            if state.dirty.contains(key) {
                state.ready.push_back(key.clone());
            }
            if let Some((meter, since)) = state.meter.as_ref().zip(since) {
                meter.worked.observe(since.elapsed().as_secs_f64());
            }
            state.show_depth();
        }
        self.inner.1.notify_one();
    }

    /// Ends all workers after their present key.
    pub fn stop(&self) {
        self.inner.0.lock().stopped = true;
        self.inner.1.notify_one();
    }

    /// Processes keys with `workers` tasks until [`Self::stop`]. `work` returns when to look at the key again
    /// (`Ok(Some(delay))`), or an error: then the key is retried with back-off and the error logged as
    /// `Error syncing <what>`.
    pub async fn run<F, Fut, E>(&self, what: &'static str, workers: usize, work: F)
    where
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Duration>, E>> + Send,
        E: std::fmt::Display + Send,
    {
        let work = Arc::new(work);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..workers.max(1) {
            let (queue, work) = (self.clone(), work.clone());
            tasks.spawn(async move {
                while let Some(key) = queue.get().await {
                    // A panic in one key's work must not take the worker (and the key) with it.
                    let outcome = AssertUnwindSafe(work(key.clone())).catch_unwind().await;
                    match outcome.map_or_else(|_| Err("panic".to_owned()), |o| o.map_err(|e| e.to_string())) {
                        Ok(again) => {
                            queue.forget(&key);
                            if let Some(delay) = again {
                                queue.add_after(key.clone(), delay);
                            }
                        }
                        Err(error) => {
                            tracing::warn!(key = ?key, %error, "Error syncing {what}");
                            queue.retry(key.clone());
                        }
                    }
                    queue.done(&key);
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            // Cancelled: the program is ending.
            if let Err(error) = ended
                && !error.is_cancelled()
            {
                tracing::error!(%error, "a worker for {what} died");
            }
        }
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K) {
        if self.stopped || !self.dirty.insert(key.clone()) {
            return;
        }
        if let Some(meter) = &self.meter {
            meter.adds.inc();
            self.added.insert(key.clone(), Instant::now());
        }
        if !self.processing.contains_key(&key) {
            self.ready.push_back(key);
        }
        self.show_depth();
    }

    fn show_depth(&self) {
        if let Some(meter) = &self.meter {
            meter.depth.set(i64::try_from(self.ready.len()).unwrap_or(i64::MAX));
        }
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if self.stopped {
            return;
        }
        if let Some(known) = self.waiting.get(&key).copied() {
            if known.0 <= at {
                return;
            }
            self.timers.remove(&known);
        }
        self.counter += 1;
        let timer = (at, self.counter);
        self.timers.insert(timer, key.clone());
        self.waiting.insert(key, timer);
    }

    /// Moves what is due to the ready keys.
    fn fire(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.waiting.remove(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        let now = Instant::now();
        self.processing.insert(key.clone(), now);
        if let Some((meter, since)) = self.meter.as_ref().zip(self.added.remove(&key)) {
            meter.waited.observe(now.duration_since(since).as_secs_f64());
        }
        self.show_depth();
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_comes_once() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!((queue.get().await, queue.len()), (Some("a"), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_processed_comes_again_only_after_done() {
        let queue = WorkQueue::new();
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        assert!(tokio::time::timeout(Duration::from_secs(1), queue.get()).await.is_err());
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn retries_double_from_five_milliseconds_to_a_thousand_seconds() {
        let queue = WorkQueue::new();
        let mut delays = Vec::new();
        for _ in 0..20 {
            let before = Instant::now();
            queue.retry("a");
            assert_eq!(queue.get().await, Some("a"));
            queue.done(&"a");
            delays.push(before.elapsed().as_millis());
        }
        assert_eq!(delays[..4], [5, 10, 20, 40]);
        assert!(delays[19] >= 1_000_000 && delays[19] < 1_000_010);
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_delayed_adds_the_earlier_counts() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(3));
        assert_eq!(queue.get().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 3);
        queue.done(&"a");
        assert!(
            tokio::time::timeout(Duration::from_secs(60), queue.get())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_named_queue_counts_what_it_is_given_and_how_long_that_takes() {
        let metrics = crate::metrics::Metrics::new();
        let queue = WorkQueue::named("things", &QueueMetrics::new(&metrics));
        queue.add("a");
        queue.add("a");
        queue.add("b");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(queue.get().await, Some("a"));
        tokio::time::advance(Duration::from_secs(2)).await;
        let text = metrics.encode();
        for line in [
            "# TYPE workqueue_adds_total counter",
            "workqueue_adds_total{name=\"things\"} 2",
            "workqueue_depth{name=\"things\"} 1",
            "workqueue_queue_duration_seconds_sum{name=\"things\"} 3.0",
            "workqueue_unfinished_work_seconds{name=\"things\"} 2.0",
            "workqueue_longest_running_processor_seconds{name=\"things\"} 2.0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
        queue.retry("a");
        queue.done(&"a");
        let text = metrics.encode();
        assert!(text.contains("workqueue_work_duration_seconds_sum{name=\"things\"} 2.0"));
        assert!(text.contains("workqueue_retries_total{name=\"things\"} 1"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn workers_end_when_the_queue_stops() {
        let queue: WorkQueue<u32> = WorkQueue::new();
        let stopper = queue.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stopper.stop();
        });
        queue.run("test", 5, |_| async { Ok::<_, String>(None) }).await;
    }
}
