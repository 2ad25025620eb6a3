//! The format of transcripts: text to lines, and back when they are recorded.

/// One line of a transcript, or several that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Said to the reader.
    Text(String),
    Step(Step),
}

/// One command and what it prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Repeated until it prints what is expected.
    pub eventually: bool,
    /// May have several lines.
    pub command: String,
    pub expected: Vec<String>,
}

const INDENT: &str = "  ";

/// Reads a transcript. Every text is one.
#[must_use]
pub fn parse(text: &str) -> Vec<Line> {
    let mut out = Vec::new();
    for line in text.lines() {
        let Some(inner) = line.strip_prefix(INDENT) else {
            out.push(Line::Text(line.to_owned()));
            continue;
        };
        let begun = inner
            .strip_prefix("$ ")
            .map(|c| (false, c))
            .or_else(|| inner.strip_prefix("~ ").map(|c| (true, c)));
        if let Some((eventually, command)) = begun {
            out.push(Line::Step(Step {
                eventually,
                command: command.to_owned(),
                expected: Vec::new(),
            }));
            continue;
        }
        match out.last_mut() {
            Some(Line::Step(step)) => match inner.strip_prefix("> ").or_else(|| inner.strip_prefix('>')) {
                Some(more) if step.expected.is_empty() => {
                    step.command.push('\n');
                    step.command.push_str(more);
                }
                _ => step.expected.push(inner.to_owned()),
            },
            _ => out.push(Line::Text(line.to_owned())),
        }
    }
    out
}

/// The text of a transcript.
#[must_use]
pub fn render(lines: &[Line]) -> String {
    let mut out = String::new();
    let mut push = |parts: &[&str]| {
        out.push_str(parts.concat().trim_end());
        out.push('\n');
    };
    for line in lines {
        match line {
            Line::Text(text) => push(&[text]),
            Line::Step(step) => {
                let mut mark = if step.eventually { "~ " } else { "$ " };
                for part in step.command.split('\n') {
                    push(&[INDENT, mark, part]);
                    mark = "> ";
                }
                step.expected.iter().for_each(|printed| push(&[INDENT, printed]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_is_read_and_written_back_as_it_was() {
        let text = "About maps.\n\n  $ kubectl create configmap c\n  configmap/c created\n  $ cat >a <<E\n  > x: 1\n  >\n  > E\n\n  ~ false\n  [1]\n";
        let lines = parse(text);
        assert_eq!(render(&lines), text);
        let steps: Vec<&Step> = lines
            .iter()
            .filter_map(|l| if let Line::Step(s) = l { Some(s) } else { None })
            .collect();
        assert_eq!(steps[0].expected, ["configmap/c created"]);
        assert_eq!(steps[1].command, "cat >a <<E\nx: 1\n\nE");
        assert_eq!(
            (steps[2].eventually, steps[2].expected.as_slice()),
            (true, ["[1]".to_owned()].as_slice())
        );
    }
}
