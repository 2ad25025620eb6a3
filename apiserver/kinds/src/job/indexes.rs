//! Lists of indexes as Jobs write them: `1,3-5,7`, ascending, below the number of completions.

/// How many indexes a list names.
pub fn count(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let mut total = 0;
    let mut last: Option<i64> = None;
    for part in text.split(',') {
        let (from, to) = interval(part, completions)?;
        if let Some(last) = last.filter(|l| *l >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        total += to - from + 1;
        last = Some(to);
    }
    Ok(total)
}

/// The first index that both lists name; intervals that cannot be read are passed over.
pub fn overlap(some: &str, others: &str, completions: i64) -> Option<i64> {
    let read =
        |text: &str| -> Vec<(i64, i64)> { text.split(',').filter_map(|p| interval(p, completions).ok()).collect() };
    let (some, others) = (read(some), read(others));
    let (mut left, mut right) = (some.iter().peekable(), others.iter().peekable());
    while let (Some(&&(a, b)), Some(&&(c, d))) = (left.peek(), right.peek()) {
        if a <= d && c <= b {
            return Some(a.max(c));
        }
        if a <= c {
            left.next();
        } else {
            right.next();
        }
    }
    None
}

/// First and last index of `3` or `3-5`. The first fault that upstream meets is named.
fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let index = |text: &str| -> Result<i64, String> {
        let number = text
            .parse::<i64>()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        match number >= completions {
            true => Err(format!("too large index: {text:?}")),
            false => Ok(number),
        }
    };
    match part.split_once('-') {
        None => index(part).map(|i| (i, i)),
        Some((_, rest)) if rest.contains('-') => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
        Some((from, to)) => {
            let (from, to) = (index(from)?, index(to)?);
            match from >= to {
                true => Err(format!("non-increasing order, previous: {from}, current: {to}")),
                false => Ok((from, to)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_ascend_below_the_number_of_completions() {
        assert_eq!(count("0,2-4", 5), Ok(4));
        assert_eq!(
            count("2,1", 5),
            Err("non-increasing order, previous: 2, current: 1".to_owned())
        );
        assert_eq!(count("5-x", 5), Err("too large index: \"5\"".to_owned()));
        assert_eq!(count("2,7-1", 5), Err("too large index: \"7\"".to_owned()));
        assert!(count("x", 5).is_err());
        assert!(count("1-2-3", 5).is_err());
    }

    #[test]
    fn lists_overlap_at_the_first_common_index() {
        assert_eq!(overlap("0-2,5", "3,4-6", 9), Some(5));
        assert_eq!(overlap("0,2,4", "1,3,5", 9), None);
        assert_eq!(overlap("0-7", "3", 9), Some(3));
        assert_eq!(overlap("", "3", 9), None);
        assert_eq!(overlap("x,3", "3", 9), Some(3));
    }
}
