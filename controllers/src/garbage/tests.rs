//! Safety of the collector's decision under arbitrary owners.

use super::decide::*;
use super::*;
use proptest::prelude::*;
use steersman_types::{ObjectMeta, Time};

fn states() -> impl Strategy<Value = Vec<OwnerState>> {
    let one = prop_oneof![
        3 => Just(OwnerState::Solid),
        3 => Just(OwnerState::Waiting),
        6 => Just(OwnerState::Absent),
        1 => Just(OwnerState::Unknown),
    ];
    proptest::collection::vec(one, 0..5)
}

fn meta(going: bool, orphan: bool, foreground: bool) -> ObjectMeta {
    let mut finalizers = vec!["example.com/other".to_owned()];
    if orphan {
        finalizers.push(ORPHAN.to_owned());
    }
    if foreground {
        finalizers.push(FOREGROUND.to_owned());
    }
    ObjectMeta {
        deletion_timestamp: going.then(|| Time(jiff::Timestamp::UNIX_EPOCH)),
        finalizers: Some(finalizers),
        ..ObjectMeta::default()
    }
}

fn owners(states: &[OwnerState]) -> Vec<(OwnerReference, OwnerState)> {
    let owner = |i: usize| OwnerReference {
        uid: format!("o{i}"),
        ..OwnerReference::default()
    };
    states.iter().enumerate().map(|(i, s)| (owner(i), *s)).collect()
}

fn known(any: bool, blocking: bool, waiting: bool) -> Dependents {
    Dependents { any, blocking, waiting }
}

proptest! {
    #[test]
    fn nothing_with_a_live_owner_or_without_owners_is_deleted(
        states in states(), going: bool, orphan: bool, foreground: bool, dependents: bool, blocked: bool, waiting: bool,
    ) {
        let decision = decide(&meta(going, orphan, foreground), &owners(&states), known(dependents || blocked, blocked, waiting));
        let safe = states.is_empty() || states.contains(&OwnerState::Solid)
            || states.contains(&OwnerState::Unknown) || going;
        prop_assert!(!(safe && matches!(decision, Decision::Delete(_))), "{decision:?}");
        if let Decision::Disown(uids) = &decision {
            for (i, state) in states.iter().enumerate() {
                prop_assert_eq!(uids.contains(&format!("o{i}")), *state != OwnerState::Solid);
            }
        }
    }

    #[test]
    fn a_foreground_deletion_ends_only_when_nothing_blocks_it(blocked: bool, waiting: bool, states in states()) {
        let decision = decide(&meta(true, false, true), &owners(&states), known(true, blocked, waiting));
        let expected = if blocked { Decision::WaitForDependents } else { Decision::RemoveFinalizer(FOREGROUND) };
        prop_assert_eq!(decision, expected);
    }
}

#[test]
fn an_owner_that_waits_passes_the_foreground_on() {
    let waiting = owners(&[OwnerState::Waiting, OwnerState::Absent]);
    assert_eq!(
        decide(&meta(false, false, false), &waiting, known(true, false, false)),
        Decision::Delete(Propagation::Foreground)
    );
    assert_eq!(
        decide(&meta(false, false, false), &waiting, known(false, false, false)),
        Decision::Delete(Propagation::Background)
    );
}

#[test]
fn a_circle_of_owners_is_opened_before_the_deletion_goes_round() {
    let mut waiting = owners(&[OwnerState::Waiting]);
    waiting[0].0.block_owner_deletion = Some(true);
    let dependents = known(true, true, true);
    assert_eq!(
        decide(&meta(false, false, false), &waiting, dependents),
        Decision::Unblock
    );
    waiting[0].0.block_owner_deletion = Some(false);
    assert_eq!(
        decide(&meta(false, false, false), &waiting, dependents),
        Decision::Delete(Propagation::Foreground)
    );
}

#[test]
fn memory_of_the_gone_is_bounded() {
    let mut gone = Gone::default();
    for i in 0..3 * ABSENT {
        gone.insert(&i.to_string());
    }
    assert_eq!((gone.known.len(), gone.order.len()), (ABSENT, ABSENT));
    assert!(gone.known.contains(&(3 * ABSENT - 1).to_string()));
}
