//! Gives each node a range of pod addresses (`--allocate-node-cidrs`).
//!
//! Watches and writes: nodes. The cluster's ranges (one per family) are cut into blocks of equal size; a node without
//! `spec.podCIDRs` gets the next free block of each. [`Pool`] and [`decide`] are pure. What stays true: blocks that a node
//! has, and those that overlap with the service range, are never given away; a block that became free is used again
//! only when all others have been.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::json;
use steersman_runtime::client::Patch;
use steersman_runtime::events::{EventType, reference};
use steersman_runtime::{Informer, Key};
use steersman_types::api::core::v1::Node;

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::own::OwnWrites;

/// A range may have at most 2^16 blocks, as upstream's.
const MOST_BITS: u8 = 16;

/// Addresses with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    v6: bool,
    base: u128,
    prefix: u8,
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("invalid CIDR address: {text}");
        let (address, prefix) = text.trim().split_once('/').ok_or_else(bad)?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let (v6, value, bits) = match address.parse().map_err(|_| bad())? {
            IpAddr::V4(v4) => (false, u128::from(u32::from(v4)), 32),
            IpAddr::V6(v6) => (true, u128::from(v6), 128),
        };
        if prefix > bits {
            return Err(bad());
        }
        let host = bits - prefix;
        let base = value
            .checked_shr(host.into())
            .and_then(|v| v.checked_shl(host.into()))
            .unwrap_or(0);
        Ok(Self { v6, base, prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.v6 {
            write!(f, "{}/{}", Ipv6Addr::from(self.base), self.prefix)
        } else {
            let base = u32::try_from(self.base).unwrap_or(0);
            write!(f, "{}/{}", Ipv4Addr::from(base), self.prefix)
        }
    }
}

impl Cidr {
    fn bits(self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    /// The last address.
    fn last(self) -> u128 {
        let host = u32::from(self.bits() - self.prefix);
        self.base | 1u128.checked_shl(host).map_or(u128::MAX, |size| size - 1)
    }
}

/// A range cut into blocks.
#[derive(Clone, Debug)]
pub struct Pool {
    range: Cidr,
    block: u8,
    /// Blocks that are nobody's to give.
    reserved: BTreeSet<u32>,
    next: u32,
}

impl Pool {
    /// Blocks have prefixes of length `v4` or `v6`.
    ///
    /// # Errors
    /// When there would be none, or too many.
    pub fn new(range: Cidr, v4: u8, v6: u8, services: &[Cidr]) -> Result<Self, String> {
        let block = if range.v6 { v6 } else { v4 };
        if block < range.prefix || block > range.bits() {
            return Err(format!("a node's range /{block} does not fit into {range}"));
        }
        if block - range.prefix > MOST_BITS {
            return Err("New CIDR set failed; the node CIDR size is too big".to_owned());
        }
        let mut pool = Self {
            range,
            block,
            reserved: BTreeSet::new(),
            next: 0,
        };
        pool.reserved = services.iter().flat_map(|service| pool.overlap(*service)).collect();
        Ok(pool)
    }

    fn count(&self) -> u32 {
        1 << (self.block - self.range.prefix)
    }

    fn width(&self) -> u32 {
        u32::from(self.range.bits() - self.block)
    }

    /// The blocks that have addresses in common with `other`.
    fn overlap(&self, other: Cidr) -> std::ops::Range<u32> {
        let (from, to) = (other.base.max(self.range.base), other.last().min(self.range.last()));
        if other.v6 != self.range.v6 || from > to {
            return 0..0;
        }
        let index = |address: u128| {
            let offset = (address - self.range.base).checked_shr(self.width()).unwrap_or(0);
            u32::try_from(offset).unwrap_or(u32::MAX)
        };
        index(from)..index(to).saturating_add(1).min(self.count())
    }

    /// The next block that is not in `used`, which it joins.
    fn take(&mut self, used: &mut BTreeSet<u32>) -> Option<Cidr> {
        let count = self.count();
        let free = |i: &u32| !used.contains(i) && !self.reserved.contains(i);
        let index = (0..count).map(|i| (self.next + i) % count).find(free)?;
        used.insert(index);
        self.next = (index + 1) % count;
        Some(Cidr {
            base: self.range.base + u128::from(index).checked_shl(self.width()).unwrap_or(0),
            prefix: self.block,
            ..self.range
        })
    }
}

fn ranges_of(node: &Node) -> impl Iterator<Item = Cidr> {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten();
    let one = spec.and_then(|s| s.pod_cidr.as_ref());
    all.chain(one).filter_map(|text| text.parse().ok())
}

/// Blocks for the nodes that have none, one per pool; `None` for a node for which a pool is exhausted.
pub fn decide(pools: &mut [Pool], nodes: &[Arc<Node>]) -> Vec<(Arc<Node>, Option<Vec<String>>)> {
    let mut used: Vec<BTreeSet<u32>> = pools
        .iter()
        .map(|pool| {
            nodes
                .iter()
                .flat_map(|node| ranges_of(node))
                .flat_map(|range| pool.overlap(range))
                .collect()
        })
        .collect();
    let bare = nodes
        .iter()
        .filter(|node| node.metadata.deletion_timestamp.is_none() && ranges_of(node).next().is_none());
    bare.map(|node| {
        let blocks: Option<Vec<String>> = pools
            .iter_mut()
            .zip(&mut used)
            .map(|(pool, used)| pool.take(used).map(|block| block.to_string()))
            .collect();
        (node.clone(), blocks)
    })
    .collect()
}

struct Allocator {
    nodes: Informer<Node>,
    pools: Mutex<Vec<Pool>>,
    executor: Executor,
    own: OwnWrites<()>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        if context.settings.pod_ranges.is_empty() {
            return Ok(());
        }
        let nodes = context.informers.of::<Node>();
        let this = Arc::new(Allocator {
            own: OwnWrites::new([("nodes", nodes.progress())]),
            pools: Mutex::new(context.settings.pod_ranges.clone()),
            executor: context.executor("cidrAllocator"),
            nodes,
        });
        this.nodes.synced().await;
        let queue = context.queue::<()>();
        let adding = queue.clone();
        this.nodes.on_event(move |event| {
            if ranges_of(event.object()).next().is_none()
                || event.old().is_none_or(|old| Arc::ptr_eq(old, event.object()))
            {
                adding.add(());
            }
        });
        queue.run("node", 1, move |()| reconcile(this.clone())).await;
        Ok(())
    })
}

async fn reconcile(this: Arc<Allocator>) -> Result<Option<Duration>, String> {
    this.own.seen(&()).await?;
    let plan = decide(&mut this.pools.lock(), &this.nodes.list());
    let mut failure = None;
    for (node, blocks) in plan {
        let Some(blocks) = blocks else {
            let name = Key::of(node.as_ref()).name;
            let message = format!("Node {name} status is now: CIDRNotAvailable");
            let note = Action::event(reference(node.as_ref()), EventType::Normal, "CIDRNotAvailable", message);
            let _ = this.executor.one(note).await;
            continue;
        };
        let patch = json!({
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": blocks.first(), "podCIDRs": blocks},
        });
        match this
            .executor
            .one(Action::patch(node.as_ref(), None, Patch::Strategic(patch)))
            .await
        {
            Ok(written) => this.own.wrote(&(), &[written]),
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => failure = Some(error.to_string()),
        }
    }
    failure.map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use steersman_types::Typed;

    fn node(i: usize, ranges: &[String]) -> Arc<Node> {
        let mut value = json!({"metadata": {"name": format!("n{i}")}, "spec": {}});
        if !ranges.is_empty() {
            value["spec"] = json!({"podCIDR": ranges[0], "podCIDRs": ranges});
        }
        Arc::new(Node::from_value(&value).unwrap())
    }

    fn pool(range: &str, services: &[&str]) -> Pool {
        let services: Vec<Cidr> = services.iter().map(|s| s.parse().unwrap()).collect();
        Pool::new(range.parse().unwrap(), 24, 64, &services).unwrap()
    }

    #[test]
    fn ranges_read_and_print() {
        for text in ["10.244.0.0/16", "fd00:10::/48", "0.0.0.0/0", "::/0", "10.0.0.1/32"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        assert_eq!("10.1.2.3/8".parse::<Cidr>().unwrap().to_string(), "10.0.0.0/8");
        assert!("10.0.0.0/33".parse::<Cidr>().is_err() && "10.0.0.0".parse::<Cidr>().is_err());
        assert!(Pool::new("fd00::/40".parse().unwrap(), 24, 64, &[]).is_err());
        assert!(Pool::new("10.0.0.0/25".parse().unwrap(), 24, 64, &[]).is_err());
    }

    #[test]
    fn each_node_gets_a_block_of_each_family() {
        let mut pools = [pool("10.244.0.0/16", &["10.244.0.0/23"]), pool("fd00::/56", &[])];
        let nodes = [node(0, &[]), node(1, &["10.244.2.0/24".to_owned()]), node(2, &[])];
        let plan = decide(&mut pools, &nodes);
        let blocks: Vec<_> = plan.into_iter().map(|(_, blocks)| blocks.unwrap().join(",")).collect();
        assert_eq!(blocks, ["10.244.3.0/24,fd00::/64", "10.244.4.0/24,fd00:0:0:1::/64"]);
    }

    proptest! {
        #[test]
        fn no_two_nodes_ever_share_a_block(events in proptest::collection::vec((0usize..12, any::<bool>()), 1..60)) {
            let mut pools = [pool("10.0.0.0/21", &["10.0.4.0/24"])];
            let mut nodes: Vec<Arc<Node>> = Vec::new();
            for (i, comes) in events {
                nodes.retain(|n| n.metadata.name.as_deref() != Some(&format!("n{i}")));
                if comes {
                    nodes.push(node(i, &[]));
                }
                for (bare, blocks) in decide(&mut pools, &nodes) {
                    let Some(blocks) = blocks else {
                        prop_assert!(nodes.len() > 7);
                        continue;
                    };
                    for slot in nodes.iter_mut().filter(|n| n.metadata.name == bare.metadata.name) {
                        let i = bare.metadata.name.as_deref().unwrap()[1..].parse().unwrap();
                        *slot = node(i, &blocks);
                    }
                }
                let given: Vec<String> = nodes.iter().flat_map(|n| n.spec.iter().filter_map(|s| s.pod_cidr.clone())).collect();
                let distinct: BTreeSet<&String> = given.iter().collect();
                prop_assert_eq!(distinct.len(), given.len());
                prop_assert!(!given.contains(&"10.0.4.0/24".to_owned()));
                prop_assert!(given.len() == nodes.len().min(7));
            }
        }
    }
}
