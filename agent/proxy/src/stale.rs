//! Which UDP connections a change has made stale. Pure; called by [`crate::sync`].
//!
//! A UDP "connection" in conntrack keeps its translation for as long as packets come, so a client that never pauses would
//! send to a removed endpoint for ever, or stay untranslated if it started before there was an endpoint.

use std::net::{IpAddr, SocketAddr};

use crate::rules::Fragment;

/// Connections to an address and port, sent to this endpoint or (`None`) to none.
pub type Stale = (IpAddr, u16, Option<SocketAddr>);

/// Compares a Service before and after.
#[must_use]
pub fn connections(before: Option<&Fragment>, after: Option<&Fragment>) -> Vec<Stale> {
    let mut stale = Vec::new();
    let empty = Vec::new();
    for (&(address, port), old) in before.map(|f| &f.udp).into_iter().flatten() {
        let new = after.and_then(|f| f.udp.get(&(address, port))).unwrap_or(&empty);
        stale.extend(
            old.iter()
                .filter(|e| !new.contains(e))
                .map(|e| (address, port, Some(*e))),
        );
    }
    for (&(address, port), new) in after.map(|f| &f.udp).into_iter().flatten() {
        let had_none = before
            .and_then(|f| f.udp.get(&(address, port)))
            .is_none_or(Vec::is_empty);
        if had_none && !new.is_empty() {
            stale.push((address, port, None));
        }
    }
    stale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(endpoints: &[&str]) -> Fragment {
        let mut fragment = Fragment::default();
        let endpoints = endpoints.iter().filter_map(|e| e.parse().ok()).collect();
        fragment.udp.insert((IpAddr::from([10, 0, 0, 1]), 53), endpoints);
        fragment
    }

    #[test]
    fn a_removed_endpoint_s_connections_are_stale() {
        let (before, after) = (fragment(&["10.1.0.1:53", "10.1.0.2:53"]), fragment(&["10.1.0.2:53"]));
        let expected = vec![(IpAddr::from([10, 0, 0, 1]), 53, "10.1.0.1:53".parse().ok())];
        assert_eq!(connections(Some(&before), Some(&after)), expected);
        assert_eq!(connections(Some(&after), None).len(), 1);
    }

    #[test]
    fn the_first_endpoint_ends_untranslated_connections() {
        let (none, one) = (fragment(&[]), fragment(&["10.1.0.1:53"]));
        let expected = vec![(IpAddr::from([10, 0, 0, 1]), 53, None)];
        assert_eq!(connections(Some(&none), Some(&one)), expected);
        assert_eq!(connections(None, Some(&one)), expected);
        assert!(connections(Some(&one), Some(&one)).is_empty());
    }
}
