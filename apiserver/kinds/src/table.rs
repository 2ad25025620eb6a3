//! Server-side tables (`meta.k8s.io/v1 Table`): what `kubectl get` shows.
//!
//! [`render`] makes the Table of some objects from a kind's columns and rows. What goes into `rows[].object` is the
//! server's business (`includeObject`): it fills that field afterwards, row by row, in the order given.

use crate::view::View;
use crate::{Column, Kind};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A first column of names; every kind's table starts with one.
pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: NAME_HELP,
    priority: 0,
};
const NAME_HELP: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATED_HELP: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
/// The usual age column.
pub const AGE: Column = column("Age", "string", 0, CREATED_HELP);

/// A column without format.
pub const fn column(name: &'static str, kind: &'static str, priority: i32, description: &'static str) -> Column {
    Column {
        name,
        kind,
        format: "",
        description,
        priority,
    }
}

static DEFAULT: [Column; 2] = [NAME, column("Created At", "date", 0, CREATED_HELP)];

/// The columns of a kind.
pub fn columns(kind: &Kind) -> &'static [Column] {
    kind.table.as_ref().map_or(&DEFAULT, |t| t.columns)
}

/// `columnDefinitions` of a Table.
pub fn definitions(kind: &Kind) -> Value {
    let list = columns(kind).iter().map(|c| {
        json!({ "name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority })
    });
    Value::Array(list.collect())
}

/// One row: `cells`, and `conditions` if there are any; `object` is left to the caller.
pub fn row(kind: &Kind, object: &Value, now: &Timestamp) -> Value {
    let (cells, conditions) = match &kind.table {
        Some(table) => ((table.row)(object, now), (table.conditions)(object)),
        None => {
            let created = object.text("/metadata/creationTimestamp");
            (vec![object.text("/metadata/name").into(), created.into()], Vec::new())
        }
    };
    if conditions.is_empty() {
        json!({ "cells": cells })
    } else {
        json!({ "cells": cells, "conditions": conditions })
    }
}

/// A whole Table. `metadata` is the list's metadata (resourceVersion, continue, remainingItemCount) or an object's
/// resourceVersion; `headers` is false when the request says `noHeaders`.
pub fn render(kind: &Kind, metadata: Value, objects: &[&Value], headers: bool, now: &Timestamp) -> Value {
    let rows: Vec<Value> = objects.iter().map(|o| row(kind, o, now)).collect();
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "Table",
        "metadata": metadata,
        "columnDefinitions": if headers { definitions(kind) } else { json!([]) },
        "rows": rows,
    })
}

/// Stands for "now" when a row is made to be kept: what depends on the time is marked, for [`fill`].
pub const LATER: Timestamp = Timestamp::MIN;
/// Stands around the second of a marked time. No character, so no text that people write holds it; a row of an object that
/// does anyway ([`marked`]) must not be kept.
const MARK: &str = "\u{fdd0}";

/// Whether bytes hold what marks times.
pub fn marked(bytes: &[u8]) -> bool {
    bytes.windows(MARK.len()).any(|w| w == MARK.as_bytes())
}

/// Appends a row, as text, that was made at [`LATER`]; times are as long ago as they are `now`.
pub fn fill(row: &[u8], now: &Timestamp, out: &mut impl Extend<u8>) {
    let mut rest = row;
    while let Some(at) = rest.windows(MARK.len()).position(|w| w == MARK.as_bytes()) {
        let (before, after) = rest.split_at(at);
        out.extend(before.iter().copied());
        rest = after.get(MARK.len()..).unwrap_or_default();
        let length = rest.iter().take_while(|b| b.is_ascii_digit() || **b == b'-').count();
        let (digits, after) = rest.split_at(length);
        let then = std::str::from_utf8(digits).ok().and_then(|d| d.parse::<i64>().ok());
        out.extend(human(now.as_second().saturating_sub(then.unwrap_or_default())).into_bytes());
        rest = after.strip_prefix(MARK.as_bytes()).unwrap_or(after);
    }
    out.extend(rest.iter().copied());
}

/// How long ago `time` (RFC 3339) was, as upstream shortens it; `<unknown>` when it is not set or no time.
pub fn since(time: &str, now: &Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) if *now == LATER => format!("{MARK}{}{MARK}", then.as_second()),
        Ok(then) => human(now.as_second().saturating_sub(then.as_second())),
        Err(_) => "<unknown>".into(),
    }
}

/// The age cell of an object.
pub fn age(object: &Value, now: &Timestamp) -> Value {
    since(object.text("/metadata/creationTimestamp"), now).into()
}

/// A duration in seconds with two or three significant figures: `5m3s`, `3d4h`, `2y10d`.
pub fn human(seconds: i64) -> String {
    let pair = |big: i64, unit: char, small: i64, sub: char| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{sub}")
        }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match seconds {
        ..-1 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => pair(days, 'd', hours % 24, 'h'),
        _ if hours < 24 * 365 * 2 => format!("{days}d"),
        _ if hours < 24 * 365 * 8 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// Names and images of containers, as the wide columns of workloads show them.
pub fn containers(pod_spec: &Value) -> (String, String) {
    let of = |key: &str| {
        let list: Vec<&str> = pod_spec.items("/containers").iter().map(|c| c.text(key)).collect();
        list.join(",")
    };
    (of("/name"), of("/image"))
}

/// A label selector cell: its string form, `<none>` when empty.
pub fn selector_cell(selector: &Value) -> Value {
    match crate::selector::format(selector).as_str() {
        "" => "<none>".into(),
        text => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_was_kept_is_filled_with_the_time_of_its_reading() {
        let text = format!(
            "[\"{}\",\"3 ({} ago)\"]",
            since("2026-01-01T00:00:00Z", &LATER),
            since("2026-01-01T00:00:30Z", &LATER)
        );
        assert!(marked(text.as_bytes()));
        for now in ["2026-01-01T00:01:00Z", "2026-01-03T00:00:00Z"] {
            let now: Timestamp = now.parse().unwrap();
            let mut out = Vec::new();
            fill(text.as_bytes(), &now, &mut out);
            let want = format!(
                "[\"{}\",\"3 ({} ago)\"]",
                since("2026-01-01T00:00:00Z", &now),
                since("2026-01-01T00:00:30Z", &now)
            );
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }

    #[test]
    fn durations_are_shortened_as_upstream_does() {
        for (seconds, want) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (303, "5m3s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600 + 60, "8h"),
            (48 * 3600, "2d"),
            (76 * 3600, "3d4h"),
            (24 * 8 * 3600, "8d"),
            (24 * 365 * 2 * 3600, "2y"),
            (24 * 375 * 2 * 3600, "2y20d"),
            (24 * 365 * 9 * 3600, "9y"),
        ] {
            assert_eq!(human(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn a_missing_time_is_unknown() {
        assert_eq!(since("", &Timestamp::UNIX_EPOCH), "<unknown>");
    }
}
