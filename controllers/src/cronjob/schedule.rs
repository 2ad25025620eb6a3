//! Cron schedules: five fields, `@hourly` and its like, `@every`, with an optional `TZ=` in front. Pure.
//!
//! As upstream's library reads them: if both the day of the month and the day of the week are restricted, either suffices;
//! a wall-clock time that a change of clocks leaves out does not happen, one that it repeats happens twice.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};

/// A date that no schedule waits longer for, in years: 29 February comes at least every eight.
const HORIZON_YEARS: i16 = 10;

/// When something is due.
#[derive(Clone, Debug)]
pub enum Schedule {
    Every(Duration),
    Calendar(Box<Calendar>),
}

/// Which minutes, hours, days and months, as bits; in a time zone.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both kinds of days are restricted: one match suffices.
    either_day: bool,
}

impl Schedule {
    /// `zone` is the job's `timeZone`; without one, and without `TZ=` in the text, the machine's own.
    ///
    /// # Errors
    /// Why the text is no schedule.
    pub fn parse(text: &str, zone: Option<&TimeZone>) -> Result<Self, String> {
        let mut zone = zone.cloned().unwrap_or_else(TimeZone::system);
        let mut text = text.trim();
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            let (named, rest) = text.split_once(' ').ok_or("empty spec string")?;
            let name = named.split_once('=').map_or("", |(_, name)| name);
            zone = TimeZone::get(name).map_err(|e| format!("provided bad location {name}: {e}"))?;
            text = rest.trim();
        }
        if let Some(every) = text.strip_prefix("@every ") {
            let every = steersman_runtime::flags::duration(every)?;
            return Ok(Self::Every(Duration::from_secs(every.as_secs().max(1))));
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ if text.starts_with('@') => return Err(format!("unrecognized descriptor: {text}")),
            _ => text,
        };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let &[minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
        };
        const MONTHS: &[&str] = &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ];
        const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
        // A star with a step of one is a star.
        let any = |field: &str| {
            field
                .split(',')
                .any(|part| part.starts_with(['*', '?']) && part.split_once('/').is_none_or(|(_, step)| step == "1"))
        };
        Ok(Self::Calendar(Box::new(Calendar {
            zone,
            minutes: bits(minute, 0, 59, &[])?,
            hours: bits(hour, 0, 23, &[])?,
            days: bits(day, 1, 31, &[])?,
            months: bits(month, 1, 12, MONTHS)?,
            weekdays: bits(weekday, 0, 6, DAYS)?,
            either_day: !any(day) && !any(weekday),
        })))
    }

    /// The first time after `at`; `None` when there is none within years.
    #[must_use]
    pub fn next(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(every) => {
                let whole = Timestamp::from_second(at.as_second()).ok()?;
                whole.checked_add(SignedDuration::try_from(*every).ok()?).ok()
            }
            Self::Calendar(calendar) => calendar.next(at),
        }
    }
}

impl Calendar {
    fn next(&self, at: Timestamp) -> Option<Timestamp> {
        let end = at.to_zoned(self.zone.clone()).year() + HORIZON_YEARS;
        let minute = at.as_second().div_euclid(60) + 1;
        let mut now = Timestamp::from_second(minute * 60).ok()?.to_zoned(self.zone.clone());
        while now.year() <= end {
            let has = |bits: u64, value: i8| bits & (1 << value) != 0;
            now = if !has(self.months, now.month()) {
                let first = now.first_of_month().ok()?;
                first.checked_add(Span::new().months(1)).ok()?.start_of_day().ok()?
            } else if !self.on_day(&now) {
                now.tomorrow().ok()?.start_of_day().ok()?
            } else if !has(self.hours, now.hour()) {
                // In real time, so that a repeated hour is visited twice and a missing one never.
                forward(&now, 60 - i64::from(now.minute()))?
            } else if !has(self.minutes, now.minute()) {
                forward(&now, 1)?
            } else {
                return Some(now.timestamp());
            };
        }
        None
    }

    fn on_day(&self, at: &Zoned) -> bool {
        let day = self.days & (1 << at.day()) != 0;
        let weekday = self.weekdays & (1 << at.weekday().to_sunday_zero_offset()) != 0;
        if self.either_day {
            day || weekday
        } else {
            day && weekday
        }
    }
}

fn forward(at: &Zoned, minutes: i64) -> Option<Zoned> {
    let later = at.timestamp().checked_add(SignedDuration::from_mins(minutes)).ok()?;
    Some(later.to_zoned(at.time_zone().clone()))
}

/// The values that a field names: lists of `*`, `a`, `a-b`, each with an optional `/step`.
fn bits(field: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    let number = |text: &str| {
        let named = names.iter().position(|name| text.eq_ignore_ascii_case(name));
        match named.and_then(|i| u32::try_from(i).ok()) {
            Some(i) => Ok(i + low),
            None => text
                .parse::<u32>()
                .map_err(|_| format!("failed to parse int from {text}")),
        }
    };
    let mut bits = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            None => (part, None),
            Some((range, step)) => (range, Some(number(step)?)),
        };
        let (start, end) = match range.split_once('-') {
            None if matches!(range, "*" | "?") => (low, high),
            None if step.is_some() => (number(range)?, high),
            None => (number(range)?, number(range)?),
            Some((a, b)) => (number(a)?, number(b)?),
        };
        if start < low || end > high || start > end || step == Some(0) {
            return Err(format!("{part} is not within {low}-{high}"));
        }
        for value in (start..=end).step_by(step.unwrap_or(1) as usize) {
            bits |= 1 << value;
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn next(schedule: &str, zone: &str, at: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let schedule = Schedule::parse(schedule, Some(&zone)).unwrap();
        let next = schedule.next(at.parse().unwrap());
        next.map_or("never".into(), |t| t.to_string())
    }

    #[test]
    fn schedules_mean_what_cron_means() {
        for (schedule, at, expected) in [
            ("* * * * *", "2026-03-01T10:00:00Z", "2026-03-01T10:01:00Z"),
            ("* * * * *", "2026-03-01T10:00:30Z", "2026-03-01T10:01:00Z"),
            ("*/15 * * * *", "2026-03-01T10:46:00Z", "2026-03-01T11:00:00Z"),
            ("30 6-16/4 * * 1-5", "2026-02-27T14:30:00Z", "2026-03-02T06:30:00Z"),
            ("0 0 29 feb *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 1 * mon", "2026-03-03T00:00:00Z", "2026-03-09T00:00:00Z"),
            ("0 0 */2 * mon", "2026-03-03T00:00:00Z", "2026-03-05T00:00:00Z"),
            ("0 0 */1 * mon", "2026-03-03T00:00:00Z", "2026-03-09T00:00:00Z"),
            ("59 23 31 2 *", "2026-03-03T00:00:00Z", "never"),
            ("@weekly", "2026-03-03T00:00:00Z", "2026-03-08T00:00:00Z"),
            ("@every 90s", "2026-03-03T00:00:00.5Z", "2026-03-03T00:01:30Z"),
            (
                "TZ=America/New_York 0 12 * * *",
                "2026-01-01T00:00:00Z",
                "2026-01-01T17:00:00Z",
            ),
        ] {
            assert_eq!(next(schedule, "UTC", at), expected, "{schedule}");
        }
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* * * * 7",
            "*/0 * * * *",
            "@often",
            "5-3 * * * *",
        ] {
            assert!(Schedule::parse(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_hour_is_skipped_and_a_repeated_one_runs_twice() {
        let berlin = "Europe/Berlin";
        assert_eq!(
            next("30 2 * * *", berlin, "2026-03-28T12:00:00Z"),
            "2026-03-30T00:30:00Z"
        );
        let first = next("30 2 * * *", berlin, "2026-10-24T12:00:00Z");
        assert_eq!(first, "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", berlin, &first), "2026-10-25T01:30:00Z");
    }

    proptest! {
        #[test]
        fn the_next_time_is_later_and_on_the_schedule(minute in 0u32..60, hour in 0u32..24, at in 0i64..2_000_000_000) {
            let schedule = Schedule::parse(&format!("{minute} {hour} * * *"), Some(&TimeZone::UTC)).unwrap();
            let at = Timestamp::from_second(at).unwrap();
            let next = schedule.next(at).unwrap();
            prop_assert!(next > at && next.duration_since(at).as_hours() <= 24);
            prop_assert_eq!(next.as_second() % 86_400, i64::from(hour * 3600 + minute * 60));
        }
    }
}
