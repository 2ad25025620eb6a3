//! Unified diffs, as messages about immutable fields show them.

use std::fmt::Write;

const CONTEXT: usize = 3;
/// Longer inputs are shown as wholly replaced: the table below grows with the product of both lengths.
const LINES_MAX: usize = 2000;

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

fn steps<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<Step<'a>> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[head..]
        .iter()
        .rev()
        .zip(b[head..].iter().rev())
        .take_while(|(x, y)| x == y)
        .count();
    let (inner_a, inner_b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut list: Vec<Step<'a>> = Vec::new();
    let mut at = (0, 0);
    let mut push = |kind: char, line: &'a str| {
        list.push(Step { kind, line, at });
        at = (at.0 + usize::from(kind != '+'), at.1 + usize::from(kind != '-'));
    };
    a[..head].iter().for_each(|l| push(' ', l));
    let (n, m) = (inner_a.len(), inner_b.len());
    if n > LINES_MAX || m > LINES_MAX {
        inner_a.iter().for_each(|l| push('-', l));
        inner_b.iter().for_each(|l| push('+', l));
    } else {
        // Lengths of longest common subsequences of the suffixes.
        let mut table = vec![vec![0_u32; m + 1]; n + 1];
        for i in (0..n).rev() {
            for j in (0..m).rev() {
                table[i][j] = if inner_a[i] == inner_b[j] {
                    table[i + 1][j + 1] + 1
                } else {
                    table[i + 1][j].max(table[i][j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < n || j < m {
            if i < n && j < m && inner_a[i] == inner_b[j] {
                push(' ', inner_a[i]);
                (i, j) = (i + 1, j + 1);
            } else if i < n && (j == m || table[i + 1][j] >= table[i][j + 1]) {
                push('-', inner_a[i]);
                i += 1;
            } else {
                push('+', inner_b[j]);
                j += 1;
            }
        }
    }
    a[a.len() - tail..].iter().for_each(|l| push(' ', l));
    list
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
