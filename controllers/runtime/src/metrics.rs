//! The process's metrics in Prometheus text form.
//!
//! A component makes one [`Metrics`], registers what it owns, and hands it to its server for `/metrics`. Every process
//! gets `process_resident_memory_bytes` and `process_cpu_seconds_total` for free.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;

/// Clones share the registry.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers metrics: names without `_total`, which the encoder adds to counters.
    pub fn register<R>(&self, add: impl FnOnce(&mut Registry) -> R) -> R {
        add(&mut self.registry.lock())
    }

    /// What `/metrics` answers.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        let end = "# EOF\n";
        if text.ends_with(end) {
            text.truncate(text.len() - end.len());
        }
        let mut text = counters_by_full_name(&text);
        text.push_str(&process());
        text
    }
}

/// The encoder speaks OpenMetrics, where a counter's description has the name without `_total`; Prometheus' text form, which
/// is what is asked for and what upstream gives, has the same name in descriptions and values.
fn counters_by_full_name(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 16);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let help = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
        let kind = |line: &str, name: &str| line == format!("# TYPE {name} counter");
        if let Some((name, words)) = help.filter(|(name, _)| lines.peek().is_some_and(|next| kind(next, name))) {
            out.push_str(&format!("# HELP {name}_total {words}\n# TYPE {name}_total counter\n"));
            lines.next();
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// From /proc/self; empty where there is none.
fn process() -> String {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return String::new();
    };
    // The second field is the command in parentheses and may hold blanks.
    let Some((_, rest)) = stat.rsplit_once(") ") else {
        return String::new();
    };
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime in clock ticks (100 per second on every Linux), rss in pages of 4096 bytes.
    let cpu = (number(11) + number(12)) / 100.0;
    let resident = number(21) * 4096.0;
    format!(
        "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {cpu}\n\
         # TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {resident}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn registered_counters_and_the_process_s_own_appear() {
        let metrics = Metrics::new();
        let counter = Counter::<u64>::default();
        metrics.register(|registry| registry.register("things", "Things", counter.clone()));
        counter.inc();
        let text = metrics.encode();
        assert!(text.contains("# HELP things_total Things.\n# TYPE things_total counter\nthings_total 1\n"));
        assert!(text.contains("process_resident_memory_bytes "));
    }
}
