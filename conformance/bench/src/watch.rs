//! One object, many watchers: how long an update takes to each of them, what that costs, what an idle watch weighs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde_json::{Value, json};
use steersman_conformance::Cluster;

use crate::api;
use crate::figure::{Report, percentile};
use crate::h2::Connection;
use crate::program::{cpu, memory, pid};

const WATCHERS: usize = 1000;
/// Upstream's server takes 250 streams per connection.
const STREAMS: usize = 100;
const UPDATES: usize = 100;
const BETWEEN: Duration = Duration::from_millis(100);
const NAMESPACE: &str = "bench-watch";

/// What all watchers have seen.
#[derive(Default)]
struct Seen {
    /// Milliseconds from before the request to after the event, per delivery.
    delays: Mutex<Vec<f64>>,
    deliveries: AtomicUsize,
}

pub async fn run(cluster: &Cluster, report: &Report) -> Result<()> {
    let client = api::client(cluster, None).await?;
    api::namespace(&client, NAMESPACE).await?;
    let maps = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "watched"}, "data": {"x": "x".repeat(1000)}});
    let made = api::json(&client, "POST", &maps, Some(&object)).await?;
    let version = made
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .context("no resourceVersion")?;
    let path = format!("{maps}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Dwatched");
    let server = pid(cluster, "kube-apiserver")?;

    let before = memory(server)?.resident;
    let epoch = Instant::now();
    let seen = Arc::new(Seen::default());
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS / STREAMS {
        let connection = Connection::open(cluster).await?;
        for _ in 0..STREAMS {
            let lines = connection.clone().get(&path).await?;
            watchers.push(tokio::spawn(watcher(lines, seen.clone(), epoch)));
        }
    }
    let opened = epoch.elapsed();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let per_watch = (memory(server)?.resident - before) * 1024.0 / WATCHERS as f64;
    report.lower(&format!("memory of an idle watch, of {WATCHERS}"), "KiB", per_watch);
    report.lower(
        &format!("opening {WATCHERS} watches"),
        "ms",
        opened.as_secs_f64() * 1000.0,
    );

    let used = cpu(server)?;
    for _ in 0..UPDATES {
        let begin = Instant::now();
        let stamp = json!({"metadata": {"annotations": {"stamp": epoch.elapsed().as_micros().to_string()}}});
        api::patch(&client, &format!("{maps}/watched"), &stamp).await?;
        tokio::time::sleep(BETWEEN.saturating_sub(begin.elapsed())).await;
    }
    let wanted = UPDATES * WATCHERS;
    let deadline = Instant::now() + Duration::from_secs(20);
    while seen.deliveries.load(Ordering::Relaxed) < wanted && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let delivered = seen.deliveries.load(Ordering::Relaxed);
    let used = cpu(server)? - used;
    watchers.iter().for_each(tokio::task::JoinHandle::abort);
    if delivered < wanted {
        report.note(&format!("only {delivered} of {wanted} events came"));
    }
    let delays = std::mem::take(&mut *seen.delays.lock());
    let name = format!("{WATCHERS} watchers, {} updates/s", 1000 / BETWEEN.as_millis());
    report.lower(&format!("{name}: delay, p50"), "ms", percentile(&delays, 50));
    report.lower(&format!("{name}: delay, p99"), "ms", percentile(&delays, 99));
    report.lower(
        &format!("{name}: kube-apiserver"),
        "CPU s per million events",
        used * 1e6 / delivered.max(1) as f64,
    );
    api::drop_namespace(&client, NAMESPACE).await
}

async fn watcher(mut lines: crate::h2::Lines, seen: Arc<Seen>, epoch: Instant) -> Result<()> {
    let mut mine = Vec::with_capacity(UPDATES);
    while let Some(line) = lines.next().await? {
        let now = epoch.elapsed();
        // Bookmarks have no stamp.
        let Some(stamp) = stamp(line) else { continue };
        mine.push(now.saturating_sub(stamp).as_secs_f64() * 1000.0);
        if mine.len() == UPDATES {
            seen.delays.lock().append(&mut mine);
        }
        seen.deliveries.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The time in an event's annotation, without parsing the rest of it.
fn stamp(line: &[u8]) -> Option<Duration> {
    const KEY: &[u8] = b"\"stamp\":\"";
    let at = line.windows(KEY.len()).position(|w| w == KEY)? + KEY.len();
    let digits = line.get(at..)?.split(|b| *b == b'"').next()?;
    Some(Duration::from_micros(std::str::from_utf8(digits).ok()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_is_found_in_an_event() {
        let line = br#"{"type":"MODIFIED","object":{"metadata":{"annotations":{"stamp":"1500"}}}}"#;
        assert_eq!(stamp(line), Some(Duration::from_micros(1500)));
        assert_eq!(stamp(b"{}"), None);
    }
}
