//! Deletes finished Jobs `ttlSecondsAfterFinished` after their end.
//!
//! Watches and deletes jobs. What stays true: before a job goes, the server is asked once more whether its time is really
//! over (the time to live may have been raised); the deletion is bound to the UID and lets the pods go first.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use steersman_runtime::client::{DeleteOptions, Propagation, Resource};
use steersman_runtime::{Informer, Key};
use steersman_types::api::batch::v1::Job;

use crate::act::{Action, Executor};
use crate::context::Context;

const WORKERS: usize = 5;

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let jobs = context.informers.of::<Job>();
        let executor = context.executor("ttl-after-finished-controller");
        let queue = context.queue();
        jobs.synced().await;
        let events = queue.clone();
        jobs.on_event(move |event| events.add(Key::of(event.object().as_ref())));
        queue
            .run("ttl after finished", WORKERS, move |key| {
                reconcile(jobs.clone(), executor.clone(), key)
            })
            .await;
        Ok(())
    })
}

/// How long the job may stay; `None` without a limit, while it runs, and when it is going already.
fn time_left(job: &Job, now: Timestamp) -> Option<Duration> {
    let limit = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let finished = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    let end = finished.last_transition_time.as_ref()?.0;
    let left = end
        .checked_add(SignedDuration::from_secs(i64::from(limit)))
        .ok()?
        .duration_since(now);
    (job.metadata.deletion_timestamp.is_none()).then(|| Duration::try_from(left).unwrap_or(Duration::ZERO))
}

async fn reconcile(jobs: Informer<Job>, executor: Executor, key: Key) -> Result<Option<Duration>, String> {
    let known: Option<Arc<Job>> = jobs.get_key(&key);
    match known.and_then(|job| time_left(&job, Timestamp::now())) {
        None => return Ok(None),
        Some(left) if !left.is_zero() => return Ok(Some(left)),
        Some(_) => {}
    }
    let fresh: Job = match executor.client().get(key.ns(), &key.name).await {
        Ok(job) => job,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    match time_left(&fresh, Timestamp::now()) {
        None => return Ok(None),
        Some(left) if !left.is_zero() => return Ok(Some(left)),
        Some(_) => {}
    }
    let action = Action::Delete {
        resource: Resource::of::<Job>(),
        namespace: Some(key.namespace),
        name: key.name,
        options: DeleteOptions {
            uid: fresh.metadata.uid,
            propagation: Some(Propagation::Foreground),
            ..DeleteOptions::default()
        },
    };
    executor.one(action).await.map(|_| None).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use steersman_types::Typed;

    fn left(ttl: Option<i32>, condition: &str, status: &str, now: i64) -> Option<Duration> {
        let end = Timestamp::from_second(1000).unwrap();
        let job = json!({"spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
            "status": {"conditions": [{"type": condition, "status": status, "lastTransitionTime": end.to_string()}]}});
        time_left(&Job::from_value(&job).unwrap(), Timestamp::from_second(now).unwrap())
    }

    #[test]
    fn only_finished_jobs_with_a_limit_expire() {
        assert_eq!(left(None, "Complete", "True", 2000), None);
        assert_eq!(left(Some(5), "Suspended", "True", 2000), None);
        assert_eq!(left(Some(5), "Failed", "False", 2000), None);
        assert_eq!(left(Some(5), "Failed", "True", 2000), Some(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn what_is_left_ends_exactly_at_the_limit(ttl in 0i32..100_000, now in 1000i64..200_000) {
            let end = 1000 + i64::from(ttl);
            let expected = Duration::from_secs(u64::try_from(end - now).unwrap_or(0));
            prop_assert_eq!(left(Some(ttl), "Complete", "True", now), Some(expected));
        }
    }
}
