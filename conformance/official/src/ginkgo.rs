//! What a test process says about the specs that it ran, as far as we read it (ginkgo's `SpecReport`).

use std::fmt::Write as _;

use serde::Deserialize;

use crate::verdict::Outcome;

/// Ginkgo's name of the suite; `--ginkgo.focus` is matched against it, a space, and the test's name.
pub const SUITE: &str = "Kubernetes e2e suite";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Spec {
    #[serde(deserialize_with = "or_default")]
    container_hierarchy_texts: Vec<String>,
    leaf_node_type: String,
    leaf_node_text: String,
    pub state: String,
    /// In nanoseconds.
    run_time: i64,
    failure: Option<Failure>,
    additional_failures: Vec<Additional>,
    pub captured_ginkgo_writer_output: String,
    pub captured_std_out_err: String,
    spec_events: Vec<Event>,
}

/// A step that the test announced, or the beginning or end of one of its parts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Event {
    spec_event_type: String,
    timeline_location: Moment,
    message: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Moment {
    time: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Failure {
    message: String,
    location: Location,
    forwarded_panic: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Location {
    file_name: String,
    line_number: u64,
    full_stack_trace: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Additional {
    state: String,
    failure: Failure,
}

/// Go writes an empty list as null.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Spec {
    /// Whether it is a test, not the suite's set-up or the like.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.leaf_node_type == "It"
    }

    /// Whether it is the suite's set-up, and that did not succeed.
    #[must_use]
    pub fn is_failed_set_up(&self) -> bool {
        self.leaf_node_type.ends_with("BeforeSuite") && !matches!(self.state.as_str(), "passed" | "skipped")
    }

    /// The name as `--list-tests` prints it.
    #[must_use]
    pub fn name(&self) -> String {
        let mut parts: Vec<&str> = self.container_hierarchy_texts.iter().map(String::as_str).collect();
        parts.push(&self.leaf_node_text);
        parts.retain(|part| !part.is_empty());
        parts.join(" ")
    }

    #[must_use]
    pub fn seconds(&self) -> f64 {
        std::time::Duration::from_nanos(self.run_time.max(0).unsigned_abs()).as_secs_f64()
    }

    /// What came of it; nothing if it was interrupted from outside, which is no verdict on the cluster.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self.state.as_str() {
            "passed" => Some(Outcome::Passed),
            "skipped" | "pending" => Some(Outcome::Skipped),
            "aborted" | "interrupted" => None,
            _ => Some(Outcome::Failed),
        }
    }

    /// Why it failed or skipped itself.
    #[must_use]
    pub fn reason(&self) -> String {
        let Some(failure) = &self.failure else {
            return String::new();
        };
        match failure.forwarded_panic.as_str() {
            "" => failure.message.clone(),
            panic => format!("{} {panic}", failure.message),
        }
    }

    /// Everything a person wants to read about it.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = format!("{}\n{} after {:.1} s\n", self.name(), self.state, self.seconds());
        for (state, failure) in self
            .failure
            .iter()
            .map(|failure| (&self.state, failure))
            .chain(self.additional_failures.iter().map(|more| (&more.state, &more.failure)))
        {
            let _ = writeln!(
                text,
                "\n[{state}] {}\n{}\nat {}:{}\n{}",
                failure.message,
                failure.forwarded_panic,
                failure.location.file_name,
                failure.location.line_number,
                failure.location.full_stack_trace
            );
        }
        text.push_str("\n---- its steps\n");
        for event in self.spec_events.iter().filter(|event| event.spec_event_type == "By") {
            let _ = writeln!(text, "{} {}", event.timeline_location.time, event.message);
        }
        for (title, part) in [
            ("what the test said", &self.captured_ginkgo_writer_output),
            ("its standard output", &self.captured_std_out_err),
        ] {
            if !part.is_empty() {
                let _ = writeln!(text, "\n---- {title}\n{part}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str = r#"{"ContainerHierarchyTexts":["[sig-apps] CronJob"],"LeafNodeType":"It",
        "LeafNodeText":"should run [Conformance]","State":"failed","RunTime":1500000000,"NumAttempts":1,
        "Failure":{"Message":"Expected\n    <int>: 1","Location":{"FileName":"cronjob.go","LineNumber":7},
        "ForwardedPanic":""},"CapturedGinkgoWriterOutput":"I said this",
        "SpecEvents":[{"SpecEventType":"By","TimelineLocation":{"Order":1,"Time":"now"},"Message":"doing it"}]}"#;

    #[test]
    fn a_report_of_a_failed_test_is_understood() {
        let spec: Spec = serde_json::from_str(FAILED).unwrap();
        assert!(spec.is_test());
        assert_eq!(spec.name(), "[sig-apps] CronJob should run [Conformance]");
        assert_eq!(spec.outcome(), Some(Outcome::Failed));
        assert!((spec.seconds() - 1.5).abs() < 1e-9);
        assert_eq!(spec.reason(), "Expected\n    <int>: 1");
        assert!(spec.log().contains("cronjob.go:7") && spec.log().contains("I said this"));
        assert!(spec.log().contains("now doing it"));
    }

    #[test]
    fn a_set_up_has_no_containers_and_may_fail() {
        let text = r#"{"ContainerHierarchyTexts":null,"LeafNodeType":"SynchronizedBeforeSuite","LeafNodeText":"",
            "State":"failed","RunTime":5,"Failure":{"Message":"no nodes"}}"#;
        let spec: Spec = serde_json::from_str(text).unwrap();
        assert!(spec.is_failed_set_up() && !spec.is_test());
        assert_eq!(spec.reason(), "no nodes");
    }

    #[test]
    fn an_interrupted_test_has_no_verdict_and_a_panic_is_a_failure() {
        for (state, outcome) in [
            ("interrupted", None),
            ("aborted", None),
            ("panicked", Some(Outcome::Failed)),
            ("timedout", Some(Outcome::Failed)),
            ("skipped", Some(Outcome::Skipped)),
        ] {
            let spec = Spec {
                state: state.to_owned(),
                ..Spec::default()
            };
            assert_eq!(spec.outcome(), outcome, "{state}");
        }
    }
}
