//! The nftables table as this program believes it to be, and the transactions that change it.
//!
//! [`Table`] keeps every Service's [`Fragment`]. [`Table::replace`] answers what has to be done when some of them change,
//! [`Table::rebuild`] how to make everything anew. Both only return [`Command`]s: running them is [`crate::nft`]'s
//! business, and a model in the tests proves that any sequence of replacements ends where a rebuild would.
//!
//! What stays true: nothing is ever read back from the kernel; a change costs what changed, not what exists. When a
//! transaction fails, the kernel has kept the old table (transactions are atomic) and the caller rebuilds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::net::IpAddr;

use crate::family::Family;
use crate::rules::{Fragment, Map};

/// The table's name in both families.
pub const NAME: &str = "kube-proxy";
/// Elements per `add element` line: long lines are parsed faster than many lines, within reason.
const BATCH: usize = 512;

/// Namespace and name of a Service.
pub type Owner = (String, String);

/// One statement of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    AddTable,
    DeleteTable,
    /// The second part is the hook of a base chain, empty for others.
    AddChain(String, &'static str),
    FlushChain(String),
    AddRule(String, String),
    DeleteChain(String),
    AddSet(String, String),
    DeleteSet(String),
    AddMap(Map),
    /// Map, key, verdict (empty in plain sets).
    AddElement(Map, String, String),
    DeleteElement(Map, String),
    /// Set of the clients that stick to an endpoint, one of them, and the seconds that it still does.
    AddClient(String, IpAddr, u64),
}

/// What a change asks for: `apply` at once and atomically, `cleanup` in a second transaction, because kernels before 6.x
/// do not let a chain go in the transaction that removes the last reference to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    pub apply: Vec<Command>,
    pub cleanup: Vec<Command>,
}

/// One family's table.
pub struct Table {
    family: Family,
    fragments: BTreeMap<Owner, Fragment>,
    /// Who wants which verdict for an element. The first owner in order has it.
    elements: HashMap<(Map, String), BTreeMap<Owner, String>>,
    /// Chains and sets that a failed clean-up has left.
    left_chains: BTreeSet<String>,
    left_sets: BTreeSet<String>,
}

impl Table {
    #[must_use]
    pub fn new(family: Family) -> Self {
        Self {
            family,
            fragments: BTreeMap::new(),
            elements: HashMap::new(),
            left_chains: BTreeSet::new(),
            left_sets: BTreeSet::new(),
        }
    }

    #[must_use]
    pub fn fragment(&self, owner: &Owner) -> Option<&Fragment> {
        self.fragments.get(owner)
    }

    /// All of them, by owner.
    pub fn fragments(&self) -> impl Iterator<Item = (&Owner, &Fragment)> {
        self.fragments.iter()
    }

    /// Takes over new fragments (`None`: the Service is gone) and says what has to be done for it.
    pub fn replace(&mut self, changes: Vec<(Owner, Option<Fragment>)>) -> Transaction {
        let (mut chains, mut sets, mut rules) = (Vec::new(), Vec::new(), Vec::new());
        let mut touched: BTreeMap<(Map, String), Option<String>> = BTreeMap::new();
        for (owner, new) in changes {
            let old = self.fragments.remove(&owner).unwrap_or_default();
            let new = new.unwrap_or_default();
            for (name, wanted) in &new.chains {
                let before = old.chains.get(name);
                if before == Some(wanted) {
                    continue;
                }
                if before.is_none() {
                    self.left_chains.remove(name);
                    chains.push(Command::AddChain(name.clone(), ""));
                }
                // A chain that a clean-up has left is there with its rules: emptying is right in every case.
                rules.push(Command::FlushChain(name.clone()));
                rules.extend(wanted.iter().map(|rule| Command::AddRule(name.clone(), rule.clone())));
            }
            for (name, definition) in &new.sets {
                if !old.sets.contains_key(name) && !self.left_sets.remove(name) {
                    sets.push(Command::AddSet(name.clone(), definition.clone()));
                }
            }
            self.left_chains
                .extend(old.chains.keys().filter(|n| !new.chains.contains_key(*n)).cloned());
            self.left_sets
                .extend(old.sets.keys().filter(|n| !new.sets.contains_key(*n)).cloned());
            self.own(&owner, &old, &new, &mut touched);
            if new != Fragment::default() {
                self.fragments.insert(owner, new);
            }
        }
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for ((map, key), before) in touched {
            let after = self.value(map, &key);
            if before == after {
                continue;
            }
            if before.is_some() {
                removed.push(Command::DeleteElement(map, key.clone()));
            }
            added.extend(after.map(|value| Command::AddElement(map, key, value)));
        }
        let apply = [chains, sets, rules, removed, added].concat();
        Transaction {
            apply,
            cleanup: self.cleanup(),
        }
    }

    /// The clean-up of the last transaction has happened.
    pub fn cleaned(&mut self) {
        self.left_chains.clear();
        self.left_sets.clear();
    }

    /// The sets of clients that stick to endpoints.
    #[must_use]
    pub fn client_sets(&self) -> Vec<String> {
        self.fragments.values().flat_map(|f| f.sets.keys().cloned()).collect()
    }

    /// Everything, from nothing, in one transaction: `base` makes the parts that belong to no Service.
    pub fn rebuild(&mut self, base: Vec<Command>) -> Vec<Command> {
        self.cleaned();
        // Adding before deleting makes deleting right whether or not the table exists.
        let mut commands = vec![Command::AddTable, Command::DeleteTable, Command::AddTable];
        commands.extend(Map::ALL.map(Command::AddMap));
        let fragments = self.fragments.values();
        commands.extend(
            fragments
                .clone()
                .flat_map(|f| &f.chains)
                .map(|(n, _)| Command::AddChain(n.clone(), "")),
        );
        commands.extend(
            fragments
                .clone()
                .flat_map(|f| &f.sets)
                .map(|(n, d)| Command::AddSet(n.clone(), d.clone())),
        );
        commands.extend(base);
        for (name, rules) in fragments.flat_map(|f| &f.chains) {
            commands.extend(rules.iter().map(|rule| Command::AddRule(name.clone(), rule.clone())));
        }
        let mut elements: Vec<_> = self
            .elements
            .iter()
            .filter_map(|((map, key), owners)| Some((*map, key, owners.first_key_value()?.1)))
            .collect();
        elements.sort_unstable();
        commands.extend(
            elements
                .into_iter()
                .map(|(map, key, value)| Command::AddElement(map, key.clone(), value.clone())),
        );
        commands
    }

    /// Moves `owner`'s claims on elements from `old` to `new`, remembering the winners' values before.
    fn own(
        &mut self,
        owner: &Owner,
        old: &Fragment,
        new: &Fragment,
        touched: &mut BTreeMap<(Map, String), Option<String>>,
    ) {
        for element in old.elements.keys().chain(new.elements.keys()) {
            if old.elements.get(element) == new.elements.get(element) {
                continue;
            }
            if !touched.contains_key(element) {
                touched.insert(element.clone(), self.value(element.0, &element.1));
            }
            let owners = self.elements.entry(element.clone()).or_default();
            match new.elements.get(element) {
                Some(value) => owners.insert(owner.clone(), value.clone()),
                None => owners.remove(owner),
            };
            if owners.is_empty() {
                self.elements.remove(element);
            }
        }
    }

    fn value(&self, map: Map, key: &str) -> Option<String> {
        let owners = self.elements.get(&(map, key.to_owned()))?;
        owners.first_key_value().map(|(_, value)| value.clone())
    }

    fn cleanup(&self) -> Vec<Command> {
        let flush = self.left_chains.iter().cloned().map(Command::FlushChain);
        let chains = self.left_chains.iter().cloned().map(Command::DeleteChain);
        flush
            .chain(chains)
            .chain(self.left_sets.iter().cloned().map(Command::DeleteSet))
            .collect()
    }

    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }
}

/// The text for `nft -f`.
#[must_use]
pub fn script(family: Family, commands: &[Command]) -> String {
    let table = format!("{} {NAME}", family.ip());
    let mut text = String::with_capacity(commands.len() * 96);
    let mut i = 0;
    while let Some(command) = commands.get(i) {
        i += 1;
        // Writing to a String cannot fail.
        let _ = match command {
            Command::AddTable => writeln!(text, "add table {table}"),
            Command::DeleteTable => writeln!(text, "delete table {table}"),
            Command::AddChain(name, "") => writeln!(text, "add chain {table} {name}"),
            Command::AddChain(name, hook) => writeln!(text, "add chain {table} {name} {{ {hook} }}"),
            Command::FlushChain(name) => writeln!(text, "flush chain {table} {name}"),
            Command::AddRule(chain, rule) => writeln!(text, "add rule {table} {chain} {rule}"),
            Command::DeleteChain(name) => writeln!(text, "delete chain {table} {name}"),
            Command::AddSet(name, definition) => writeln!(text, "add set {table} {name} {{ {definition} }}"),
            Command::DeleteSet(name) => writeln!(text, "delete set {table} {name}"),
            Command::AddMap(map) => {
                let kind = if map.is_verdict_map() { "map" } else { "set" };
                writeln!(
                    text,
                    "add {kind} {table} {} {{ {} }}",
                    map.name(),
                    map.definition(family)
                )
            }
            Command::AddElement(map, key, value) => {
                let _ = write!(text, "add element {table} {} {{ {}", map.name(), element(key, value));
                for _ in 1..BATCH {
                    let Some(Command::AddElement(next, key, value)) = commands.get(i) else {
                        break;
                    };
                    if next != map {
                        break;
                    }
                    i += 1;
                    let _ = write!(text, ", {}", element(key, value));
                }
                writeln!(text, " }}")
            }
            Command::DeleteElement(map, key) => writeln!(text, "delete element {table} {} {{ {key} }}", map.name()),
            Command::AddClient(set, client, seconds) => {
                writeln!(text, "add element {table} {set} {{ {client} expires {seconds}s }}")
            }
        };
    }
    text
}

fn element(key: &str, value: &str) -> String {
    if value.is_empty() {
        key.to_owned()
    } else {
        format!("{key} : {value}")
    }
}
