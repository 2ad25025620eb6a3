//! `/metrics`: upstream's names, with labels that only known values can take.

use std::fmt::Write;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::Api;
use crate::call::Call;
use crate::routes::is_long_running;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: u16,
    component: &'static str,
    dry_run: String,
    group: String,
    resource: String,
    scope: &'static str,
    subresource: String,
    verb: &'static str,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    component: &'static str,
    group: String,
    resource: String,
    scope: &'static str,
    subresource: String,
    verb: &'static str,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

/// What the server counts.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    stages: Family<StageLabels, Histogram>,
}

/// Upstream's buckets, seconds.
const BUCKETS: [f64; 20] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 30.0, 60.0,
];

impl Default for Metrics {
    fn default() -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        let durations = Family::<DurationLabels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let stages = Family::<StageLabels, Histogram>::new_with_constructor(|| {
            Histogram::new([
                0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
            ])
        });
        let mut registry = Registry::default();
        // The library appends "_total" to counters.
        registry.register("apiserver_request", "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Response latency distribution in seconds for each verb, group, version, resource, subresource, scope and component", durations.clone());
        registry.register(
            "steersman_apiserver_stage_duration_seconds",
            "Time that requests spend in each stage",
            stages.clone(),
        );
        Self {
            registry: Mutex::new(registry),
            requests,
            durations,
            stages,
        }
    }
}

impl Metrics {
    /// Counts an answered request.
    pub fn answered(&self, api: &Api, call: &Call, code: u16, started: Instant) {
        let info = &call.info;
        // Only what is served gets a label of its own: nobody can fill memory with made-up names.
        let known = info.is_resource
            && api
                .resources
                .find(&info.group, &info.version, &info.resource)
                .is_some_and(|r| info.subresource.is_empty() || r.facts.subresource(&info.subresource).is_some());
        let text = |text: &str| if known { text.to_owned() } else { String::new() };
        let scope = match () {
            () if !info.is_resource => "",
            () if !info.name.is_empty() => "resource",
            () if !info.namespace.is_empty() => "namespace",
            () => "cluster",
        };
        let verb = verb(&info.verb, call.method.as_str());
        let subresource = if !known && !info.is_resource {
            health_path(&info.path).to_owned()
        } else {
            text(&info.subresource)
        };
        let labels = RequestLabels {
            code,
            component: "apiserver",
            dry_run: if call.query.get("dryRun") == Some("All") {
                "All".to_owned()
            } else {
                String::new()
            },
            group: text(&info.group),
            resource: text(&info.resource),
            scope,
            subresource: subresource.clone(),
            verb,
            version: text(&info.version),
        };
        self.requests.get_or_create(&labels).inc();
        if is_long_running(info) {
            return;
        }
        let labels = DurationLabels {
            component: "apiserver",
            group: labels.group,
            resource: labels.resource,
            scope,
            subresource,
            verb,
            version: labels.version,
        };
        self.durations
            .get_or_create(&labels)
            .observe(started.elapsed().as_secs_f64());
        let stages = call.stages();
        let ends = stages.iter().skip(1).map(|(_, at)| *at).chain([Instant::now()]);
        for ((stage, begun), end) in stages.iter().zip(ends) {
            let labels = StageLabels { stage };
            self.stages
                .get_or_create(&labels)
                .observe(end.saturating_duration_since(*begun).as_secs_f64());
        }
    }

    /// The text that Prometheus reads.
    pub fn render(&self, api: &Api) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry.lock()).is_err() {
            return String::new();
        }
        // The classic format ends without OpenMetrics' end mark.
        if let Some(end) = text.rfind("# EOF") {
            text.truncate(end);
        }
        let mut text = classic(&text);
        // Reading the counts walks no object.
        text.push_str("# HELP apiserver_storage_objects Number of stored objects at the time of last check split by kind.\n# TYPE apiserver_storage_objects gauge\n");
        for resource in api.resources.stored() {
            let count = api.cache.snapshot(&resource.prefix).count(&resource.prefix, None);
            let name = steersman_schema::status::qualified(resource.group(), resource.plural());
            // Writing to a String does not fail.
            let _ = writeln!(text, "apiserver_storage_objects{{resource=\"{name}\"}} {count}");
        }
        text.push_str(&process());
        text
    }
}

/// The library writes OpenMetrics, where a counter's name lacks the `_total` of its samples.
fn classic(text: &str) -> String {
    let counters: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(text.len() + 256);
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(&name) => {
                let _ = writeln!(out, "# {what} {name}_total {rest}");
            }
            _ => {
                let _ = writeln!(out, "{line}");
            }
        }
    }
    out
}

fn verb(verb: &str, method: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "proxy" => "PROXY",
        _ => match method {
            "GET" => "GET",
            "POST" => "POST",
            _ => "OTHER",
        },
    }
}

fn health_path(path: &str) -> &'static str {
    match path {
        "/livez" => "/livez",
        "/readyz" => "/readyz",
        "/healthz" => "/healthz",
        _ => "",
    }
}

/// Memory and CPU of this process, from /proc.
fn process() -> String {
    let mut out = String::new();
    if let Ok(statm) = std::fs::read_to_string("/proc/self/statm") {
        let mut pages = statm.split_whitespace().filter_map(|n| n.parse::<u64>().ok());
        if let (Some(size), Some(resident)) = (pages.next(), pages.next()) {
            let _ = write!(
                out,
                "# TYPE process_virtual_memory_bytes gauge\nprocess_virtual_memory_bytes {}\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {}\n",
                size * 4096,
                resident * 4096
            );
        }
    }
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        let after = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<u64> = after.split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
        if let (Some(user), Some(system)) = (fields.get(11), fields.get(12)) {
            let _ = write!(
                out,
                "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {}\n",
                (user + system) as f64 / 100.0
            );
        }
    }
    out
}
