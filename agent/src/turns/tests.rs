use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

/// What happens to a line: somebody asks, somebody is done, somebody who waits goes away.
#[derive(Debug, Clone)]
enum Happens {
    Asks(Rank),
    Done,
    Leaves(prop::sample::Index),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        prop::bool::ANY.prop_map(|new| Happens::Asks(if new { Rank::New } else { Rank::Begun })),
        Just(Happens::Done),
        any::<prop::sample::Index>().prop_map(Happens::Leaves),
    ]
}

proptest! {
    #[test]
    fn never_more_than_the_places_are_at_work_and_never_fewer_while_somebody_waits(
        places in 1..5_usize, story in prop::collection::vec(happens(), 0..80)
    ) {
        let mut queue = Queue::new(places);
        let (mut at_work, mut next) = (0_usize, 0_u64);
        let mut waiting: BTreeMap<(Rank, u64), ()> = BTreeMap::new();
        for step in story {
            match step {
                Happens::Asks(rank) => {
                    next += 1;
                    if queue.ask(rank, (rank, next)) {
                        at_work += 1;
                    } else {
                        waiting.insert((rank, next), ());
                    }
                }
                Happens::Done if at_work > 0 => {
                    at_work -= 1;
                    let named = queue.done(|who| waiting.contains_key(who));
                    let first = waiting.pop_first().map(|(who, ())| who);
                    prop_assert_eq!(named, first, "whoever has begun, then whoever asked first");
                    at_work += usize::from(named.is_some());
                }
                Happens::Done => {}
                Happens::Leaves(which) => {
                    if !waiting.is_empty() {
                        let who = *waiting.keys().nth(which.index(waiting.len())).unwrap();
                        waiting.remove(&who);
                    }
                }
            }
            prop_assert!(at_work <= places);
            prop_assert!(at_work == places || waiting.is_empty());
        }
    }
}

/// Counts who is at work at once, and how many ever were.
#[derive(Default)]
struct Count {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Count {
    async fn work(&self, long: Duration) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(long).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_goes_through_a_few_at_a_time_and_the_first_half_is_done_after_half_of_the_time() {
    let (turns, count) = (Turns::new(4), Count::default());
    let begun = tokio::time::Instant::now();
    let each = (0..40).map(|_| async {
        turns.sandbox(count.work(Duration::from_secs(1))).await;
        turns.container(count.work(Duration::from_secs(1))).await;
        begun.elapsed().as_secs()
    });
    let mut done = futures::future::join_all(each).await;
    done.sort_unstable();
    assert_eq!(count.most.into_inner(), 4);
    assert_eq!(done[39], 20, "no place stays empty: 80 seconds of work by four");
    assert_eq!(done[19], 10, "containers go ahead of sandboxes");
    assert_eq!(done[0], 2);
}

#[tokio::test(start_paused = true)]
async fn steps_that_hang_let_others_go_after_a_while_and_a_crowd_that_starts_does_not_hold_up_one_that_stops() {
    let turns = Turns::new(2);
    let begun = tokio::time::Instant::now();
    let hang = futures::future::join_all((0..2).map(|_| turns.sandbox(std::future::pending::<()>())));
    let others = async {
        turns.stop(async {}).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        turns.sandbox(async {}).await;
        begun.elapsed()
    };
    tokio::select! {
        biased;
        _ = hang => unreachable!(),
        after = others => assert_eq!(after, PATIENCE),
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_waiting_or_at_work_gives_the_turn_on() {
    let turns = Turns::new(1);
    let second = Duration::from_secs(1);
    let at_work = tokio::time::timeout(second, turns.sandbox(std::future::pending::<()>()));
    let waiting = tokio::time::timeout(second / 2, turns.sandbox(std::future::pending::<()>()));
    let last = async {
        let begun = tokio::time::Instant::now();
        turns.sandbox(async {}).await;
        begun.elapsed()
    };
    let (at_work, waiting, last) = tokio::join!(at_work, waiting, last);
    assert!(at_work.is_err() && waiting.is_err());
    assert_eq!(last, second);
}
