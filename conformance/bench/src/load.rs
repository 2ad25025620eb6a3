//! Many requests at once, bounded in count and concurrency.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use kube::Client;
use serde_json::Value;
use steersman_conformance::Cluster;

use crate::api;

/// Connections over which requests go: one client each.
pub const CONNECTIONS: usize = 16;

/// Calls `work` with the client and a number, for every number below `count`, over [`CONNECTIONS`] connections.
pub async fn each<F, W>(cluster: &Cluster, count: usize, work: F) -> Result<()>
where
    F: Fn(Client, usize) -> W + Clone + Send + 'static,
    W: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    for _ in 0..CONNECTIONS.min(count) {
        let (client, next, work) = (api::client(cluster, None).await?, next.clone(), work.clone());
        workers.push(tokio::spawn(async move {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    return anyhow::Ok(());
                }
                work(client.clone(), i).await?;
            }
        }));
    }
    for worker in workers {
        worker.await??;
    }
    Ok(())
}

/// POSTs `count` objects to one path; `object` makes the `i`-th.
pub async fn create<F>(cluster: &Cluster, path: &str, count: usize, object: F) -> Result<()>
where
    F: Fn(usize) -> Value + Clone + Send + Sync + 'static,
{
    let path = path.to_owned();
    each(cluster, count, move |client, i| {
        let (path, object) = (path.clone(), object(i));
        async move {
            api::send(&client, "POST", &path, "application/json", Some(&object))
                .await
                .map(drop)
        }
    })
    .await
}
