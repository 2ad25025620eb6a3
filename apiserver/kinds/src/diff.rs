//! Unified diffs, as messages about immutable fields show them.

use std::collections::HashMap;
use std::fmt::Write;

const CONTEXT: usize = 3;
/// From here on lines that are frequent do not begin a run.
const MANY: usize = 200;

/// What changes from `old` to `new`, with three lines of context.
pub fn unified(old: &str, new: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let steps = steps(&a, &b);
    let mut out = String::new();
    let mut start = 0;
    while let Some(first) = steps[start..].iter().position(|s| s.kind != ' ').map(|i| i + start) {
        let from = first.saturating_sub(CONTEXT).max(start);
        let mut last = first;
        // Changes closer than twice the context share a hunk.
        while let Some(next) = steps[last + 1..].iter().position(|s| s.kind != ' ') {
            if next > 2 * CONTEXT {
                break;
            }
            last += next + 1;
        }
        let to = (last + 1 + CONTEXT).min(steps.len());
        hunk(&steps[from..to], &mut out);
        start = to;
    }
    out
}

struct Step<'a> {
    /// `' '`, `'-'` or `'+'`.
    kind: char,
    line: &'a str,
    /// Lines of both sides before this one.
    at: (usize, usize),
}

/// All lines of both sides in order; within a change first what goes, then what comes.
fn steps<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<Step<'a>> {
    let mut blocks = Vec::new();
    Matcher::new(a, b).blocks((0, a.len()), (0, b.len()), &mut blocks);
    blocks.push((a.len(), b.len(), 0));
    let mut list: Vec<Step<'a>> = Vec::new();
    let mut at = (0, 0);
    for (i, j, size) in blocks {
        let gone = a[at.0..i].iter().map(|l| ('-', *l));
        let come = b[at.1..j].iter().map(|l| ('+', *l));
        let kept = a[i..i + size].iter().map(|l| (' ', *l));
        for (kind, line) in gone.chain(come).chain(kept) {
            list.push(Step { kind, line, at });
            at = (at.0 + usize::from(kind != '+'), at.1 + usize::from(kind != '-'));
        }
    }
    list
}

/// Ratcliff and Obershelp: the longest common run first, then the same left and right of it. Upstream's library does it
/// so (a port of Python's difflib), and another way would show other lines where lines repeat.
struct Matcher<'a> {
    a: &'a [&'a str],
    b: &'a [&'a str],
    /// Where each line is in `b`; without lines that are too frequent to begin a run.
    places: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Matcher<'a> {
    fn new(a: &'a [&'a str], b: &'a [&'a str]) -> Self {
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, line) in b.iter().enumerate() {
            places.entry(line).or_default().push(i);
        }
        if b.len() >= MANY {
            places.retain(|_, at| at.len() <= b.len() / 100 + 1);
        }
        Self { a, b, places }
    }

    /// Common runs `(start in a, start in b, length)`, in order.
    fn blocks(&self, a: (usize, usize), b: (usize, usize), out: &mut Vec<(usize, usize, usize)>) {
        let (i, j, size) = self.longest(a, b);
        if size == 0 {
            return;
        }
        if a.0 < i && b.0 < j {
            self.blocks((a.0, i), (b.0, j), out);
        }
        out.push((i, j, size));
        if i + size < a.1 && j + size < b.1 {
            self.blocks((i + size, a.1), (j + size, b.1), out);
        }
    }

    fn longest(&self, a: (usize, usize), b: (usize, usize)) -> (usize, usize, usize) {
        let mut best = (a.0, b.0, 0);
        // Length of the run that ends here, by place in `b`.
        let mut runs: HashMap<usize, usize> = HashMap::new();
        for i in a.0..a.1 {
            let mut next = HashMap::new();
            let places = self.places.get(self.a[i]).map(Vec::as_slice).unwrap_or_default();
            for &j in places.iter().filter(|j| (b.0..b.1).contains(*j)) {
                let length = j.checked_sub(1).and_then(|p| runs.get(&p)).copied().unwrap_or(0) + 1;
                next.insert(j, length);
                if length > best.2 {
                    best = (i + 1 - length, j + 1 - length, length);
                }
            }
            runs = next;
        }
        let (mut i, mut j, mut size) = best;
        while i > a.0 && j > b.0 && self.a[i - 1] == self.b[j - 1] {
            (i, j, size) = (i - 1, j - 1, size + 1);
        }
        while i + size < a.1 && j + size < b.1 && self.a[i + size] == self.b[j + size] {
            size += 1;
        }
        (i, j, size)
    }
}

fn hunk(steps: &[Step<'_>], out: &mut String) {
    let count = |skip: char| steps.iter().filter(|s| s.kind != skip).count();
    let (old, new) = (count('+'), count('-'));
    let range = |start: usize, length: usize| match length {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        _ => format!("{},{length}", start + 1),
    };
    let at = steps.first().map_or((0, 0), |s| s.at);
    // Writing to a String cannot fail.
    let _ = writeln!(out, "@@ -{} +{} @@", range(at.0, old), range(at.1, new));
    for step in steps {
        let _ = write!(out, "{}{}", step.kind, step.line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_line_is_one_hunk() {
        assert_eq!(
            unified("a\nb\nc\nd\ne\nf\n", "a\nb\nc\nd\nE\nf\n"),
            "@@ -2,5 +2,5 @@\n b\n c\n d\n-e\n+E\n f\n"
        );
        assert_eq!(unified("a\n", "a\n"), "");
    }
}
