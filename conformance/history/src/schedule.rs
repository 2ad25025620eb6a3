//! Which faults happen when: a pure function of the seed.
//!
//! Faults name programs by number; what is a leader only at run time is said by role. Every fault is mended by itself after
//! its time; now and then two overlap. The last part of a run is free of faults.

use std::time::Duration;

use crate::dice::Dice;

/// Something bad, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Since the run began.
    pub at: Duration,
    pub lasts: Duration,
    pub fault: Fault,
}

/// A member of etcd, by number or by what it is at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    Number(usize),
    Leader,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; started again after the fault's time.
    KillServer(usize),
    /// SIGTERM; started again after the fault's time.
    EndServer(usize),
    /// SIGSTOP, then SIGCONT.
    PauseServer(usize),
    KillMember(Member),
    PauseMember(Member),
    /// No packet between this member and the others; API servers still reach it.
    IsolateMember(Member),
    /// No packet between a server and one member.
    CutServer(usize, usize),
    /// No packet between a server and any member.
    IsolateServer(usize),
    /// Connections from a server to any member are reset instead of silently dropped.
    ResetServer(usize),
    /// Two of three members paused.
    LoseQuorum(usize),
    /// Two of three members killed.
    KillQuorum(usize),
}

/// Quiet time at the beginning, and between the end of a fault and the next.
const CALM: (usize, usize) = (300, 2_500);
/// Free of faults at the end of the run.
pub const CLOSING: Duration = Duration::from_secs(8);

/// The faults of a run.
#[must_use]
pub fn plan(seed: u64, run: Duration, servers: usize, members: usize) -> Vec<Planned> {
    let mut dice = Dice::new(seed).part(0);
    let mut planned = Vec::new();
    let mut at = dice.millis(1_000, 2_000);
    loop {
        let (fault, lasts) = fault(&mut dice, servers, members);
        if at + lasts + CLOSING > run {
            return planned;
        }
        planned.push(Planned { at, lasts, fault });
        // One fault in four meets the one before.
        let overlap = dice.percent(25);
        at += if overlap {
            lasts / 2
        } else {
            lasts + dice.millis(CALM.0, CALM.1)
        };
    }
}

fn fault(dice: &mut Dice, servers: usize, members: usize) -> (Fault, Duration) {
    let server = dice.below(servers);
    let number = dice.below(members);
    let member = if dice.percent(50) {
        Member::Leader
    } else {
        Member::Number(number)
    };
    match dice.below(100) {
        0..18 => (Fault::KillServer(server), dice.millis(0, 1_500)),
        18..24 => (Fault::EndServer(server), dice.millis(0, 500)),
        24..36 => (Fault::PauseServer(server), dice.millis(200, 6_000)),
        36..48 => (Fault::KillMember(member), dice.millis(0, 2_000)),
        48..58 => (Fault::PauseMember(member), dice.millis(200, 5_000)),
        58..70 => (Fault::IsolateMember(member), dice.millis(500, 6_000)),
        70..77 => (Fault::CutServer(server, number), dice.millis(500, 6_000)),
        77..84 => (Fault::IsolateServer(server), dice.millis(500, 6_000)),
        84..90 => (Fault::ResetServer(server), dice.millis(200, 3_000)),
        90..96 => (Fault::LoseQuorum(number), dice.millis(500, 5_000)),
        _ => (Fault::KillQuorum(number), dice.millis(0, 2_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_and_none_near_the_end() {
        let run = Duration::from_secs(600);
        let one = plan(5, run, 3, 3);
        assert_eq!(one, plan(5, run, 3, 3));
        assert_ne!(one, plan(6, run, 3, 3));
        assert!(one.iter().all(|fault| fault.at + fault.lasts + CLOSING <= run));
        assert!(one.len() > 100, "{}", one.len());
    }

    #[test]
    fn ten_minutes_have_every_kind_of_fault() {
        let kinds: std::collections::HashSet<_> = plan(1, Duration::from_secs(600), 3, 3)
            .iter()
            .map(|p| std::mem::discriminant(&p.fault))
            .collect();
        assert_eq!(kinds.len(), 11);
    }
}
