//! Placeholders for what differs from run to run, so that the rest can be compared word for word.

use std::path::Path;

use regex::Regex;

/// The alphabet of generated suffixes: without vowels and without what looks alike.
const SUFFIX: &str = "[bcdfghjklmnpqrstvwxz2456789]";

/// Makes what was printed comparable.
pub struct Normal {
    rules: Vec<(Regex, &'static str)>,
}

impl Normal {
    /// For a namespace and its folder.
    ///
    /// # Panics
    /// When a pattern below is wrong.
    #[must_use]
    pub fn new(namespace: &str, folder: &Path) -> Self {
        let folder = regex::escape(&folder.to_string_lossy());
        let namespace = regex::escape(namespace);
        let suffix = |n: &str| format!("-{SUFFIX}{{{n}}}\\b");
        let patterns = [
            (folder, "{dir}"),
            (namespace, "{ns}"),
            (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b".into(), "{uid}"),
            (
                r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)".into(),
                "{time}",
            ),
            (r"\b\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}".into(), "{date}"),
            (r"\b[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ".into(), "{log} "),
            (r"\b(\d{1,3}\.){3}\d{1,3}(:\d+)?\b".into(), "{ip}"),
            (r"\[::1\]:\d+".into(), "{ip}"),
            (r#"(resourceVersion"?: ")\d+"#.into(), "${1}{version}"),
            (r"\b(LIVE|MERGED)-\d+".into(), "${1}"),
            (r"\bkubectl-edit-\d+\.yaml".into(), "{edited}"),
            (
                r"\b(pod-template-hash|controller-revision-hash)(\W+)\w+".into(),
                "${1}${2}{hash}",
            ),
            (r"\b3[0-2]\d{3}/(TCP|UDP)".into(), "{port}/${1}"),
            (r"\b(connection for) \d+".into(), "${1} {port}"),
            (r"\bsha256:[0-9a-f]{64}\b".into(), "{digest}"),
            (r"\b(containerd://)?[0-9a-f]{64}\b".into(), "{container}"),
            (r"\bnode-\d+\b".into(), "{node}"),
            (r":3[0-2]\d{3}\b".into(), ":{port}"),
            (format!("-{SUFFIX}{{8,10}}-{SUFFIX}{{5}}\\b"), "-{hash}-{id}"),
            (suffix("8,10"), "-{hash}"),
            (suffix("5"), "-{id}"),
            (r"(^|[ \t(=])(\d+[dhms])+\b".into(), "${1}{age}"),
            (r"<invalid>".into(), "{age}"),
            // Columns are as wide as their widest cell.
            (r"(\S) {3,}".into(), "${1}   "),
        ];
        let rules = patterns
            .into_iter()
            .map(|(pattern, with)| (Regex::new(&pattern).expect("a good pattern"), with))
            .collect();
        Self { rules }
    }

    /// Line by line; an empty one says so. What kubectl's watches log of themselves is left out: that one was closed
    /// within its first second says how busy the machine is.
    #[must_use]
    pub fn lines(&self, text: &str) -> Vec<String> {
        text.lines()
            .map(|line| self.line(line))
            .filter(|line| !line.starts_with("{log} reflector.go:"))
            .collect()
    }

    fn line(&self, line: &str) -> String {
        let mut out = line.trim_end().to_owned();
        for (pattern, with) in &self.rules {
            if let std::borrow::Cow::Owned(changed) = pattern.replace_all(&out, *with) {
                out = changed;
            }
        }
        if out.is_empty() { "{empty}".to_owned() } else { out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_has_placeholders() {
        let normal = Normal::new("day-12ab34", Path::new("/tmp/steersman-day-12ab34"));
        for (printed, expected) in [
            (
                "pod/web-7d9f8b6c5d-x2x4z   1/1   Running   0     12s",
                "pod/web-{hash}-{id}   1/1   Running   0   {age}",
            ),
            (
                "web   ClusterIP   10.96.3.4    <none>        80:31234/TCP   1m5s",
                "web   ClusterIP   {ip}   <none>   80:{port}/TCP   {age}",
            ),
            (
                "stored in /tmp/steersman-day-12ab34/dump of day-12ab34",
                "stored in {dir}/dump of {ns}",
            ),
            (
                "  creationTimestamp: \"2026-11-20T16:49:33Z\"",
                "  creationTimestamp: \"{time}\"",
            ),
            ("  resourceVersion: \"1234\"", "  resourceVersion: \"{version}\""),
            ("Age: 5s (x2 over 10s)", "Age: {age} (x2 over {age})"),
            ("deployment.apps/web created", "deployment.apps/web created"),
            ("", "{empty}"),
        ] {
            assert_eq!(normal.line(printed), expected);
        }
    }
}
