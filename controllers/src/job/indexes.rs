//! Sets of completion indexes, as `status.completedIndexes` writes them: `1,3-5,7`. Pure.
//!
//! What stays true: ranges are ordered, disjoint and never adjacent, so a set has one text. Two neighbours are written
//! `1,2` and three `1-3`, as upstream does.

use std::fmt;

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes {
    /// First and last of each range, both included.
    ranges: Vec<(u32, u32)>,
}

impl Indexes {
    /// What `text` names below `end`. Parts that are no numbers are left out: the text comes from a status.
    #[must_use]
    pub fn parse(text: &str, end: u32) -> Self {
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>())
                && first < end
                && first <= last
            {
                ranges.push((first, last.min(end - 1)));
            }
        }
        Self::of_ranges(ranges)
    }

    fn of_ranges(mut all: Vec<(u32, u32)>) -> Self {
        all.sort_unstable();
        let mut ranges: Vec<(u32, u32)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match ranges.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::of_ranges(self.ranges.iter().chain(&other.ranges).copied().collect())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many indexes there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < index);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many indexes both have.
    #[must_use]
    pub fn common(&self, other: &Self) -> u32 {
        self.count() + other.count() - self.union(other).count()
    }

    /// The first `count` indexes below `end` that are not in the set.
    #[must_use]
    pub fn missing(&self, count: usize, end: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut next = 0;
        for (first, last) in self.ranges.iter().copied().chain([(end, end)]) {
            let room = count - found.len();
            found.extend((next..first.min(end)).take(room));
            next = last.saturating_add(1);
        }
        found
    }
}

impl FromIterator<u32> for Indexes {
    fn from_iter<I: IntoIterator<Item = u32>>(indexes: I) -> Self {
        Self::of_ranges(indexes.into_iter().map(|i| (i, i)).collect())
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn texts_are_upstreams() {
        for (indexes, text) in [
            (&[][..], ""),
            (&[3], "3"),
            (&[1, 2], "1,2"),
            (&[1, 2, 3, 7, 9, 10], "1-3,7,9,10"),
        ] {
            assert_eq!(indexes.iter().copied().collect::<Indexes>().to_string(), text);
        }
        assert_eq!(Indexes::parse("0-9,12", 5).to_string(), "0-4");
        assert_eq!(Indexes::parse("x,2", 5).to_string(), "2");
    }

    proptest! {
        #[test]
        fn the_set_behaves_like_a_set(a in prop::collection::btree_set(0u32..40, 0..20), b in prop::collection::btree_set(0u32..40, 0..20)) {
            let (x, y): (Indexes, Indexes) = (a.iter().copied().collect(), b.iter().copied().collect());
            let both: BTreeSet<u32> = a.union(&b).copied().collect();
            prop_assert_eq!(x.union(&y), both.iter().copied().collect());
            prop_assert_eq!(x.common(&y) as usize, a.intersection(&b).count());
            prop_assert_eq!(x.count() as usize, a.len());
            prop_assert_eq!(Indexes::parse(&x.to_string(), 40), x.clone());
            let missing: Vec<u32> = (0..30).filter(|i| !a.contains(i)).take(5).collect();
            prop_assert_eq!(x.missing(5, 30), missing);
            prop_assert!((0..40).all(|i| x.contains(i) == a.contains(&i)));
        }
    }
}
