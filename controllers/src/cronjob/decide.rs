//! What a CronJob needs: which jobs of the past to delete, whether a job is due, what the status says. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use steersman_runtime::events::EventType;
use steersman_types::api::batch::v1::{CronJob, CronJobStatus, Job};
use steersman_types::api::core::v1::ObjectReference;
use steersman_types::{ObjectMeta, Time};

use super::schedule::Schedule;
use crate::job::facts;
use crate::owners;

/// Added to every waiting time, for clocks that differ a little.
const SLACK: Duration = Duration::from_millis(100);
/// With more times missed than this, something is wrong with a clock or a deadline.
const MANY: i64 = 100;
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What is known about one CronJob.
#[derive(Clone, Debug)]
pub struct Observed {
    pub cron: Arc<CronJob>,
    /// The jobs it controls.
    pub jobs: Vec<Arc<Job>>,
    /// UIDs in `status.active` whose job is there no more, as the server says.
    pub gone: BTreeSet<String>,
    pub now: Timestamp,
}

/// An event: type, reason, message.
pub type Remark = (EventType, &'static str, String);

/// What to do, in this order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Finished jobs beyond the history limits.
    pub forget: Vec<Arc<Job>>,
    pub remarks: Vec<Remark>,
    /// Running jobs that make room for the next.
    pub replace: Vec<ObjectReference>,
    /// The job that is due, and since when.
    pub start: Option<(Box<Job>, Timestamp)>,
    /// Before a start and its replacements.
    pub status: CronJobStatus,
    /// Until the next time.
    pub again: Option<Duration>,
}

/// See [`Plan`].
#[must_use]
pub fn decide(seen: &Observed) -> Plan {
    let cron = seen.cron.as_ref();
    let mut plan = Plan {
        forget: history(cron, &seen.jobs),
        status: cron.status.clone().unwrap_or_default(),
        ..Plan::default()
    };
    follow_jobs(seen, &mut plan);
    if cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let zone = match cron.spec.time_zone.as_deref().map(|name| (name, TimeZone::get(name))) {
        None => None,
        Some((_, Ok(zone))) => Some(zone),
        Some((name, Err(_))) => {
            let text = format!("invalid timeZone: {name:?}: unknown time zone {name}");
            plan.remark(EventType::Warning, "UnknownTimeZone", text);
            return plan;
        }
    };
    if cron.spec.suspend == Some(true) {
        return plan;
    }
    if cron.spec.schedule.contains("TZ") {
        let text = format!(
            "CRON_TZ or TZ used in schedule {:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
            cron.spec.schedule
        );
        plan.remark(EventType::Warning, "UnsupportedSchedule", text);
    }
    let schedule = match Schedule::parse(&cron.spec.schedule, zone.as_ref()) {
        Ok(schedule) => schedule,
        Err(why) => {
            let text = format!("unparseable schedule: {:?} : {why}", cron.spec.schedule);
            plan.remark(EventType::Warning, "UnparseableSchedule", text);
            return plan;
        }
    };
    start(seen, &schedule, zone, &mut plan);
    plan
}

impl Plan {
    fn remark(&mut self, kind: EventType, reason: &'static str, text: String) {
        self.remarks.push((kind, reason, text));
    }
}

/// The oldest finished jobs beyond what is to be kept of each kind.
fn history(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let mut out = Vec::new();
    for (condition, limit) in [
        ("Complete", cron.spec.successful_jobs_history_limit),
        ("Failed", cron.spec.failed_jobs_history_limit),
    ] {
        let Some(limit) = limit else { continue };
        let mut done: Vec<&Arc<Job>> = jobs.iter().filter(|j| facts::has_condition(j, condition)).collect();
        done.sort_by_key(|j| {
            let started = j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
            (started.is_none(), started, j.metadata.name.clone())
        });
        let surplus = done.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        out.extend(done.into_iter().take(surplus).cloned());
    }
    out
}

/// Brings `status.active` and `lastSuccessfulTime` in line with the jobs.
fn follow_jobs(seen: &Observed, plan: &mut Plan) {
    for job in &seen.jobs {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let active = plan.status.active.get_or_insert_default();
        let listed = active.iter().any(|r| r.uid == job.metadata.uid);
        if !facts::is_finished(job) {
            if !listed {
                let text = format!("Saw a job that the controller did not create or forgot: {name}");
                plan.remark(EventType::Warning, "UnexpectedJob", text);
            }
            continue;
        }
        if listed {
            active.retain(|r| r.uid != job.metadata.uid);
            let kind = if facts::has_condition(job, "Complete") {
                "Complete"
            } else {
                "Failed"
            };
            let text = format!("Saw completed job: {name}, condition: {kind}");
            plan.remark(EventType::Normal, "SawCompletedJob", text);
        }
        let completed = job.status.as_ref().and_then(|s| s.completion_time.clone());
        if facts::has_condition(job, "Complete") && plan.status.last_successful_time < completed {
            plan.status.last_successful_time = completed;
        }
    }
    let forgotten: BTreeSet<&str> = plan.forget.iter().filter_map(|j| j.metadata.uid.as_deref()).collect();
    let mut missing = Vec::new();
    plan.status.active.get_or_insert_default().retain(|r| {
        let uid = r.uid.as_deref().unwrap_or_default();
        if seen.gone.contains(uid) {
            missing.push(r.name.clone().unwrap_or_default());
        }
        !seen.gone.contains(uid) && !forgotten.contains(uid)
    });
    for name in missing {
        plan.remark(
            EventType::Normal,
            "MissingJob",
            format!("Active job went missing: {name}"),
        );
    }
}

/// Whether a job is due, and what stands in its way.
fn start(seen: &Observed, schedule: &Schedule, zone: Option<TimeZone>, plan: &mut Plan) {
    let (cron, now) = (seen.cron.as_ref(), seen.now);
    let last = plan.status.last_schedule_time.as_ref().map(|t| t.0);
    plan.again = Some(until_next(cron, last, schedule, now));
    let missed = match missed(cron, last, schedule, now, true) {
        Ok(missed) => missed,
        Err(why) => {
            plan.again = None;
            let text = format!("invalid schedule: {} : {why}", cron.spec.schedule);
            plan.remark(EventType::Warning, "InvalidSchedule", text);
            return;
        }
    };
    let Some(due) = missed.recent else { return };
    if missed.count > MANY {
        let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.remark(EventType::Warning, "TooManyMissedTimes", text.to_owned());
    }
    let late = cron.spec.starting_deadline_seconds.is_some_and(|seconds| {
        due.saturating_add(SignedDuration::from_secs(seconds))
            .is_ok_and(|end| end < now)
    });
    if late {
        let text = format!(
            "Missed scheduled time to start a job: {}",
            due.strftime("%a, %d %b %Y %H:%M:%S +0000")
        );
        plan.remark(EventType::Warning, "MissSchedule", text);
        return;
    }
    let name = job_name(cron, due);
    let active = plan.status.active.clone().unwrap_or_default();
    if last == Some(due) || active.iter().any(|r| r.name.as_deref() == Some(&name)) {
        return;
    }
    match cron.spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.remark(EventType::Normal, "JobAlreadyActive", text.to_owned());
            return;
        }
        Some("Replace") => plan.replace = active,
        _ => {}
    }
    plan.again = Some(until_next(cron, Some(due), schedule, now));
    plan.start = Some((Box::new(job(cron, name, due, zone)), due));
}

/// One name per scheduled minute: a second attempt does not make a second job.
fn job_name(cron: &CronJob, due: Timestamp) -> String {
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{}", due.as_second().div_euclid(60))
}

fn job(cron: &CronJob, name: String, due: Timestamp, zone: Option<TimeZone>) -> Job {
    let template = &cron.spec.job_template;
    let meta = template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let local = due.to_zoned(zone.unwrap_or(TimeZone::UTC));
    let offset = if local.offset().is_zero() {
        "Z".to_owned()
    } else {
        local.strftime("%:z").to_string()
    };
    let stamp = format!("{}{offset}", local.strftime("%Y-%m-%dT%H:%M:%S"));
    annotations.insert(SCHEDULED.to_owned(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            creation_timestamp: Some(Time(due)),
            owner_references: Some(vec![owners::reference_to(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Scheduled times since the last one that was used.
struct Missed {
    since: Timestamp,
    /// The latest of them, if any.
    recent: Option<Timestamp>,
    /// Roughly how many.
    count: i64,
}

/// `with_deadline` leaves out what is too late to start.
fn missed(
    cron: &CronJob,
    last: Option<Timestamp>,
    schedule: &Schedule,
    now: Timestamp,
    with_deadline: bool,
) -> Result<Missed, &'static str> {
    const NEVER: &str = "time difference between two schedules is less than 1 second";
    let created = cron.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let mut since = last.or(created).unwrap_or(now);
    if let Some(seconds) = cron.spec.starting_deadline_seconds.filter(|_| with_deadline) {
        let earliest = now
            .checked_sub(SignedDuration::from_secs(seconds))
            .unwrap_or(Timestamp::MIN);
        since = since.max(earliest);
    }
    let first = schedule.next(since).ok_or(NEVER)?;
    let second = schedule.next(first).ok_or(NEVER)?;
    if now < first {
        return Ok(Missed {
            since,
            recent: None,
            count: 0,
        });
    }
    // Times may be many: start near the end, by the distance of the first two.
    let step = second.duration_since(first).as_secs().max(1);
    let count = now.duration_since(first).as_secs() / step + 1;
    let jump = SignedDuration::from_secs(step.saturating_mul((count - 2).max(0)));
    let mut recent = first;
    let mut at = first.checked_add(jump).unwrap_or(first);
    if at > first && matches!(schedule, Schedule::Calendar(_)) {
        // Itself a scheduled time unless the distances differ; a fixed distance counts from there.
        at = at.checked_sub(SignedDuration::from_secs(1)).unwrap_or(first);
    }
    while let Some(next) = schedule.next(at).filter(|next| *next <= now) {
        recent = next;
        at = next;
    }
    Ok(Missed {
        since,
        recent: Some(recent),
        count,
    })
}

/// How long until the time after the last that has come.
fn until_next(cron: &CronJob, last: Option<Timestamp>, schedule: &Schedule, now: Timestamp) -> Duration {
    let from = missed(cron, last, schedule, now, false).map_or(now, |m| m.recent.unwrap_or(m.since));
    let next = schedule.next(from).unwrap_or(now);
    Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO) + SLACK
}
