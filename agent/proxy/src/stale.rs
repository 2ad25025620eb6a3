//! Which UDP connections a change has made stale. Pure; called by [`crate::sync`].
//!
//! A UDP "connection" in conntrack keeps its translation for as long as packets come, so a client that never pauses would
//! send to a removed endpoint for ever, or stay untranslated if it started before there was an endpoint. As upstream, a
//! connection is stale when its Service has endpoints that serve and it is answered by none of them: whether it could
//! be begun today (traffic policies, hints, termination) does not matter, as it would not for TCP.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use crate::conntrack::Flow;
use crate::rules::{Fragment, Front};

/// Where UDP Services are reached, and who serves them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fronts {
    by_address: HashMap<SocketAddr, BTreeSet<SocketAddr>>,
    by_node_port: HashMap<u16, BTreeSet<SocketAddr>>,
}

impl Fronts {
    /// Adds what a Service is reached by. Without endpoints there is nowhere to go instead, so nothing is stale.
    pub fn add(&mut self, fragment: &Fragment) {
        for (front, serving) in fragment.udp.iter().filter(|(_, serving)| !serving.is_empty()) {
            match front {
                Front::Address(address) => self.by_address.insert(*address, serving.clone()),
                Front::NodePort(port) => self.by_node_port.insert(*port, serving.clone()),
            };
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_node_port.is_empty()
    }

    /// Whether the connection is answered by somebody who does not serve what it asks for. `is_node` knows the addresses
    /// on which node ports answer.
    #[must_use]
    pub fn is_stale(&self, flow: &Flow, is_node: impl Fn(IpAddr) -> bool) -> bool {
        let by_port = || {
            let serving = self.by_node_port.get(&flow.wanted.port());
            serving.filter(|_| is_node(flow.wanted.ip()))
        };
        let serving = self.by_address.get(&flow.wanted).or_else(by_port);
        serving.is_some_and(|serving| !serving.contains(&flow.answers))
    }
}

/// Whether a change of a Service can have made connections stale.
#[must_use]
pub fn may_be(before: Option<&Fragment>, after: Option<&Fragment>) -> bool {
    after.is_some_and(|after| !after.udp.is_empty() && before.is_none_or(|before| before.udp != after.udp))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fragment(endpoints: &[&str]) -> Fragment {
        let serving: BTreeSet<SocketAddr> = endpoints.iter().map(|e| e.parse().unwrap()).collect();
        let mut fragment = Fragment::default();
        let address = Front::Address("10.0.0.1:53".parse().unwrap());
        fragment.udp.insert(address, serving.clone());
        fragment.udp.insert(Front::NodePort(30053), serving);
        fragment
    }

    fn stale(endpoints: &[&str], wanted: &str, answers: &str) -> bool {
        let mut fronts = Fronts::default();
        fronts.add(&fragment(endpoints));
        let node: IpAddr = "198.18.30.11".parse().unwrap();
        let flow = Flow::new(wanted.parse().unwrap(), answers.parse().unwrap());
        fronts.is_stale(&flow, |address| address == node)
    }

    #[test]
    fn what_is_answered_by_no_serving_endpoint_is_stale() {
        let endpoints = ["10.1.0.2:53"];
        assert!(stale(&endpoints, "10.0.0.1:53", "10.1.0.1:53"), "a removed endpoint");
        assert!(stale(&endpoints, "10.0.0.1:53", "10.0.0.1:53"), "never translated");
        assert!(!stale(&endpoints, "10.0.0.1:53", "10.1.0.2:53"));
        assert!(!stale(&endpoints, "10.0.0.1:54", "10.1.0.1:53"), "another port");
        assert!(stale(&endpoints, "198.18.30.11:30053", "10.1.0.1:53"), "a node port");
        assert!(!stale(&endpoints, "8.8.8.8:30053", "8.8.8.8:30053"), "not this node");
    }

    #[test]
    fn without_endpoints_nothing_is_stale() {
        assert!(!stale(&[], "10.0.0.1:53", "10.1.0.1:53"));
    }

    #[test]
    fn only_changes_of_udp_endpoints_matter() {
        let (one, two) = (fragment(&["10.1.0.1:53"]), fragment(&["10.1.0.2:53"]));
        assert!(may_be(Some(&one), Some(&two)) && may_be(None, Some(&one)));
        assert!(!may_be(Some(&one), Some(&one)) && !may_be(Some(&one), None));
        assert!(!may_be(None, Some(&Fragment::default())));
    }
}
