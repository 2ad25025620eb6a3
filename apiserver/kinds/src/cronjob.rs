//! CronJobs: Jobs on a schedule.

use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, put_back, same, set, set_default, set_if_empty};
use crate::workload::non_negatives;
use crate::{Column, Kind, Status, Table, job, meta, nothing, selector};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};

/// Eleven letters are added to make the names of jobs.
const NAME_MAX: usize = 52;

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "batch",
    version: "v1",
    kind: "CronJob",
    plural: "cronjobs",
    default,
    prepare_create: |cron, _| {
        set(cron, "status", json!({}));
        crate::pod::template::drop_gated(cron, "/spec/jobTemplate/spec/template");
    },
    prepare_update: |new, old, _| {
        put_back(new, old, "status");
        crate::pod::template::drop_gated(new, "/spec/jobTemplate/spec/template");
    },
    validate: |cron| validate(cron, None),
    validate_update: |new, old| validate(new, Some(old)),
    warnings,
    validate_name: meta::name_subdomain,
    status: Some(Status {
        prepare: |new, old, _| put_back(new, old, "spec"),
        validate: nothing::validate_update,
    }),
    updates: &[],
    generation: true,
    create_on_update: false,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: default}
spec:
  schedule: '0 3 * * *'
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{name: backup, image: 'registry.example.com/backup:1'}]
",
};

fn default(cron: &mut Value) {
    job::default_spec(cron, "/spec/jobTemplate/spec");
    let Some(spec) = child(cron, "spec") else { return };
    set_if_empty(spec, "concurrencyPolicy", "Allow");
    set_default(spec, "suspend", false);
    set_default(spec, "successfulJobsHistoryLimit", 3);
    set_default(spec, "failedJobsHistoryLimit", 1);
}

fn validate(cron: &Value, old: Option<&Value>) -> FieldErrors {
    let path = Path::new("spec");
    let spec = cron.at("/spec");
    let mut errors = Vec::new();
    let (text, place) = (spec.text("/schedule"), path.child("schedule"));
    if text.is_empty() {
        errors.push(FieldError::required(&place, ""));
    } else {
        if let Err(why) = schedule(text) {
            errors.push(FieldError::invalid(&place, text, why));
        }
        let had = old.is_some_and(|o| o.text("/spec/schedule").contains("TZ"));
        if text.contains("TZ") && had && spec.has("/timeZone") {
            let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            errors.push(FieldError::invalid(&place, text, why));
        } else if text.contains("TZ") && !had {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.push(FieldError::invalid(&place, text, why));
        }
    }
    errors.extend(non_negatives(spec, &["startingDeadlineSeconds"], &path));
    if old.is_none_or(|o| o.at("/spec/timeZone") != spec.at("/timeZone")) {
        errors.extend(time_zone(spec, &path.child("timeZone")));
    }
    let place = path.child("concurrencyPolicy");
    match spec.text("/concurrencyPolicy") {
        "Allow" | "Forbid" | "Replace" => {}
        "" => errors.push(FieldError::required(&place, "")),
        other => errors.push(FieldError::not_supported(
            &place,
            other,
            &["Allow", "Forbid", "Replace"],
        )),
    }
    let at = path.child("jobTemplate").child("spec");
    let job_spec = spec.at("/jobTemplate/spec");
    errors.extend(job::validate_spec(
        job_spec,
        old.map(|o| o.at("/spec/jobTemplate/spec")),
        &at,
    ));
    if job_spec.has("/selector") {
        let shown = selector::shown(job_spec.at("/selector"));
        errors.push(FieldError::invalid(
            &at.child("selector"),
            shown,
            "`selector` will be auto-generated",
        ));
    }
    if job_spec.flag("/manualSelector") {
        errors.push(FieldError::not_supported(
            &at.child("manualSelector"),
            true,
            &["nil", "false"],
        ));
    }
    errors.extend(non_negatives(
        spec,
        &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"],
        &path,
    ));
    let own = cron.text("/metadata/name");
    if old.is_none() && own.len() > NAME_MAX {
        let place = Path::new("metadata").child("name");
        errors.push(FieldError::invalid(&place, own, "must be no more than 52 characters"));
    }
    errors
}

fn time_zone(spec: &Value, path: &Path) -> FieldErrors {
    let Some(zone) = spec.at("/timeZone").as_str() else {
        return Vec::new();
    };
    if zone.is_empty() {
        return vec![FieldError::invalid(
            path,
            zone,
            "timeZone must be nil or non-empty string",
        )];
    }
    let part = |p: &str| {
        (1..=14).contains(&p.len())
            && !matches!(p, "." | "..")
            && !p.starts_with('-')
            && p.bytes().all(|c| c.is_ascii_alphanumeric() || b".-_+".contains(&c))
    };
    let unknown = || FieldError::invalid(path, BadValue::typed(zone), format!("unknown time zone {zone}"));
    if !zone.split('/').all(part) {
        return vec![unknown()];
    }
    let mut errors = Vec::new();
    if zone.eq_ignore_ascii_case("Local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(FieldError::invalid(path, zone, why));
    } else if TimeZone::get(zone).is_err() {
        errors.push(unknown());
    }
    errors
}

/// Whether a text is a cron schedule: five fields, or one of the words that stand for them.
///
/// # Errors
/// With upstream's parser's words.
pub fn schedule(text: &str) -> Result<(), String> {
    let mut text = text;
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        let (zone, rest) = text.split_once(' ').ok_or_else(|| "empty spec string".to_string())?;
        let zone = zone.split_once('=').map_or("", |(_, z)| z);
        TimeZone::get(zone).map_err(|_| format!("provided bad location {zone}: unknown time zone {zone}"))?;
        text = rest.trim();
    }
    if let Some(word) = text.strip_prefix('@') {
        return match word {
            "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
            _ if word.strip_prefix("every ").is_some_and(duration) => Ok(()),
            _ => Err(format!("unrecognized descriptor: {text}")),
        };
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        let shown = fields.join(" ");
        return Err(format!("expected exactly 5 fields, found {}: [{shown}]", fields.len()));
    }
    const MONTHS: &[&str] = &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let bounds: [(u32, u32, &[&str], u32); 5] = [
        (0, 59, &[], 0),
        (0, 23, &[], 0),
        (1, 31, &[], 0),
        (1, 12, MONTHS, 1),
        (0, 6, DAYS, 0),
    ];
    for (field, (low, high, names, first)) in fields.iter().zip(bounds) {
        for part in field.split(',') {
            range(part, low, high, names, first)?;
        }
    }
    Ok(())
}

/// Go's durations: `1h30m`.
fn duration(text: &str) -> bool {
    let units = ["ns", "us", "ms", "h", "m", "s"];
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let Some(after) = units.iter().find_map(|u| rest[digits..].strip_prefix(u)) else {
            return false;
        };
        if digits == 0 {
            return false;
        }
        rest = after;
    }
    !text.is_empty()
}

fn range(part: &str, low: u32, high: u32, names: &[&str], first: u32) -> Result<(), String> {
    let number = |text: &str| -> Result<u32, String> {
        let lower = text.to_lowercase();
        if let Some(i) = names.iter().position(|n| *n == lower) {
            return Ok(u32::try_from(i).unwrap_or_default() + first);
        }
        text.parse()
            .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"))
    };
    let pieces: Vec<&str> = part.split('/').collect();
    if pieces.len() > 2 {
        return Err(format!("too many slashes: {part}"));
    }
    let ends: Vec<&str> = pieces[0].split('-').collect();
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?"] => (low, high),
        [one] => (number(one)?, number(one)?),
        [from, to] => (number(from)?, number(to)?),
        _ => return Err(format!("too many hyphens: {part}")),
    };
    if let [_, step] = pieces.as_slice() {
        if number(step)? == 0 {
            return Err(format!("step of range should be a positive number: {part}"));
        }
        if ends.len() == 1 {
            end = high;
        }
    }
    if start < low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {part}"));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {part}"));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {part}"
        ));
    }
    Ok(())
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let faults = steersman_schema::name::dns1123_label(new.text("/metadata/name"));
    if old.is_none() && !faults.is_empty() {
        warnings.push(format!("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]", faults.join(" ")));
    }
    if new.text("/spec/schedule").contains("TZ") {
        warnings.push("CRON_TZ or TZ used in spec.schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".into());
    }
    if old.is_none_or(|o| !same(o.at("/spec"), new.at("/spec"))) {
        let path = Path::new("spec").child("jobTemplate").child("spec").child("template");
        warnings.extend(crate::pod::template::warnings(
            new,
            None,
            "/spec/jobTemplate/spec/template",
            &path,
        ));
    }
    warnings
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Schedule", "string", 0, "When jobs are made, as cron writes it."),
    column("Timezone", "string", 0, "The time zone of the schedule."),
    column("Suspend", "boolean", 0, "Whether no more jobs are made."),
    column("Active", "integer", 0, "How many jobs are running."),
    column("Last Schedule", "string", 0, "When the last job was made."),
    AGE,
    column("Containers", "string", 1, "Names of each container in the template."),
    column(
        "Images",
        "string",
        1,
        "Images referenced by each container in the template.",
    ),
    column(
        "Selector",
        "string",
        1,
        "The labels of the pods that belong to its jobs.",
    ),
];

fn row(cron: &Value, now: &Timestamp) -> Vec<Value> {
    let last = match cron.text("/status/lastScheduleTime") {
        "" => "<none>".to_string(),
        time => table::since(time, now),
    };
    let suspend = match cron.at("/spec/suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let (names, images) = table::containers(cron.at("/spec/jobTemplate/spec/template/spec"));
    vec![
        cron.text("/metadata/name").into(),
        cron.text("/spec/schedule").into(),
        cron.at("/spec/timeZone").as_str().unwrap_or("<none>").into(),
        suspend.into(),
        cron.items("/status/active").len().into(),
        last.into(),
        table::age(cron, now),
        names.into(),
        images.into(),
        table::selector_cell(cron.at("/spec/jobTemplate/spec/selector")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_cron_does() {
        for good in [
            "* * * * *",
            "*/5 0-6 1,15 jan mon-fri",
            "@hourly",
            "@every 1h30m",
            "0 0 ? * 6",
        ] {
            assert_eq!(schedule(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            (
                "x * * * *",
                "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(schedule(bad), Err(why.to_string()), "{bad}");
        }
    }

    #[test]
    fn a_zone_must_exist() {
        let texts = |zone: &str| {
            let spec = json!({ "timeZone": zone });
            time_zone(&spec, &Path::new("z"))
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            texts("Europe/../Rome"),
            ["z: Invalid value: \"Europe/../Rome\": unknown time zone Europe/../Rome"]
        );
        assert_eq!(
            texts("Atlantis"),
            ["z: Invalid value: \"Atlantis\": unknown time zone Atlantis"]
        );
        assert!(texts("UTC").is_empty());
    }
}
