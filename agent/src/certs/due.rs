//! When the next certificate is to be asked for. Pure: time and chance are arguments.

use steersman_runtime::pki::request::{Facts, Subject};
use steersman_types::jiff::{SignedDuration, Timestamp};

/// Whether a certificate is about whom it is wanted.
fn fits(have: &Subject, wanted: &Subject) -> bool {
    have.common_name == wanted.common_name
        && have.organization == wanted.organization
        && wanted.dns_names.iter().all(|n| have.dns_names.contains(n))
        && wanted.addresses.iter().all(|a| have.addresses.contains(a))
}

/// After 70 % to 90 % of the life of the one there is (`chance` from 0 to 1 decides, so that nodes that were made together
/// do not ask together); now, if there is none that fits.
#[must_use]
pub fn due(have: Option<&Facts>, wanted: &Subject, chance: f64, now: Timestamp) -> Timestamp {
    let Some(have) = have.filter(|have| fits(&have.subject, wanted)) else {
        return now;
    };
    let life = have.not_after.duration_since(have.not_before);
    let part = SignedDuration::from_secs_f64(life.as_secs_f64().max(0.0) * (0.7 + 0.2 * chance.clamp(0.0, 1.0)));
    have.not_before.saturating_add(part).unwrap_or(have.not_after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn facts(name: &str, life: i64) -> Facts {
        Facts {
            subject: subject(name),
            not_before: at(1000),
            not_after: at(1000 + life),
        }
    }

    fn subject(name: &str) -> Subject {
        Subject {
            common_name: name.into(),
            dns_names: vec![name.into()],
            ..Subject::default()
        }
    }

    #[test]
    fn none_or_one_about_somebody_else_is_due_now() {
        assert_eq!(due(None, &subject("a"), 0.5, at(5)), at(5));
        assert_eq!(due(Some(&facts("b", 1000)), &subject("a"), 0.5, at(5)), at(5));
        assert_eq!(due(Some(&facts("a", 1000)), &subject("a"), 0.5, at(5)), at(1800));
        let mut more = subject("a");
        more.dns_names.push("c".into());
        assert_eq!(
            due(Some(&facts("a", 1000)), &more, 0.5, at(5)),
            at(5),
            "a name is missing"
        );
    }

    proptest! {
        #[test]
        fn it_is_due_in_the_last_third_and_before_the_end(life in 60i64..100_000_000, chance in 0.0f64..=1.0) {
            let when = due(Some(&facts("a", life)), &subject("a"), chance, at(0)).as_second() - 1000;
            prop_assert!(when >= life * 7 / 10 - 1 && when <= life * 9 / 10 + 1);
        }
    }
}
