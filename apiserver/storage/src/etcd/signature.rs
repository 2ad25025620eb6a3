//! A signature on each stored value, by which a write recognises itself.
//!
//! When the answer of a write is lost, the value that is found under the key tells whether the write was applied: but two
//! writers may well write the same bytes over the same revision (a counter!), and both would take the one write for their own. So
//! each value gets a number at its end that no other write has, where every reader skips it: an unknown field in a protobuf envelope,
//! white space after a JSON document. It is cut off again when we read, so nobody above the store ever sees it, and upstream's API
//! server reads such values as its own. Other values (plain text, ciphertext) stay as they are.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

/// Start of a protobuf envelope.
const PROTOBUF: &[u8] = b"k8s\0";
/// Field 15, 16 bytes: `runtime.Unknown` has fields 1 to 4, the last two of which upstream always writes, so no object's own
/// bytes can stand here.
const FIELD: &[u8] = b"\x7a\x10steersmn";
/// No program writes such a line after a document by itself.
const BLANK: &[u8] = b"\n \t\r \t\n ";
/// Two bits each.
const DIGITS: &[u8; 4] = b" \t\n\r";
const JSON_DIGITS: usize = 32;

/// Makes numbers that are unique among all writers: random start, then counting.
pub(super) struct Signer {
    base: u64,
    count: AtomicU64,
}

impl Default for Signer {
    fn default() -> Self {
        Signer {
            base: RandomState::new().hash_one("steersman"),
            count: AtomicU64::new(0),
        }
    }
}

impl Signer {
    /// The value with a signature of its own. The second result tells whether there is one.
    pub fn sign(&self, value: Bytes) -> (Bytes, bool) {
        // The multiplier (odd) spreads the count over all bits, so that two servers' numbers are not neighbours.
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let number = self.base ^ count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if value.starts_with(PROTOBUF) {
            ([&value, FIELD, &number.to_be_bytes()].concat().into(), true)
        } else if value.first() == Some(&b'{') {
            let digit = |at: usize| DIGITS.get((number >> (2 * at)) as usize & 3).copied();
            let digits: Vec<u8> = (0..JSON_DIGITS).filter_map(digit).collect();
            ([&value, BLANK, &digits].concat().into(), true)
        } else {
            (value, false)
        }
    }
}

/// Cuts the signature off, if there is one.
pub(super) fn cut(value: &mut Bytes) {
    let signed = |mark: &[u8], number: usize| {
        let at = value.len().checked_sub(mark.len() + number)?;
        value.get(at..)?.starts_with(mark).then_some(at)
    };
    let at = if value.starts_with(PROTOBUF) {
        signed(FIELD, 8)
    } else if value.first() == Some(&b'{') {
        signed(BLANK, JSON_DIGITS).filter(|at| {
            value
                .get(at + BLANK.len()..)
                .is_some_and(|rest| rest.iter().all(|b| DIGITS.contains(b)))
        })
    } else {
        None
    };
    if let Some(at) = at {
        value.truncate(at);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn signatures_differ_and_are_cut_off() {
        let signer = Signer::default();
        for value in [
            &b"k8s\0\x0a\x04\x0a\x02v1\x12\x00\x1a\x00\x22\x00"[..],
            b"{\"a\":1}",
            b"{}\n",
        ] {
            let mut seen = HashSet::new();
            for _ in 0..1000 {
                let (mut signed, is) = signer.sign(Bytes::from_static(value));
                assert!(is && seen.insert(signed.clone()));
                cut(&mut signed);
                assert_eq!(&*signed, value);
                cut(&mut signed);
                assert_eq!(&*signed, value, "only once");
            }
        }
        let (plain, is) = signer.sign("123".into());
        assert_eq!((&*plain, is), (&b"123"[..], false));
    }
}
