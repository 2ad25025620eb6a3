//! Small transactions as netlink messages, without the `nft` program: that one first reads every chain and set of the table,
//! which takes a tenth of a second where there are thousands.
//!
//! [`encode`] knows the statements that a changed Service or endpoint asks for; if there is any other among them, or too
//! much of them, it says nothing and the caller runs `nft` ([`crate::nft`]), as it does when the kernel refuses. What stays
//! true: the kernel ends up with exactly what `nft` would have made (a test compares), or with nothing changed.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::family::Family;
use crate::netlink::{Attributes, Batch, Socket};
use crate::rules::Map;
use crate::table::{Command, NAME};

/// More goes through `nft`.
const MAX_COMMANDS: usize = 200;
const MAX_ENDPOINTS: usize = 1000;
const MAX_BYTES: usize = 96 << 10;

const NEW_CHAIN: u8 = 3;
const DELETE_CHAIN: u8 = 5;
const NEW_RULE: u8 = 6;
const DELETE_RULE: u8 = 8;
const NEW_SET: u8 = 9;
const NEW_ELEMENT: u8 = 12;
const DELETE_ELEMENT: u8 = 14;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const GOTO: u32 = 0xffff_fffc;
const DROP: u32 = 0;
/// The name of an anonymous map, to be numbered by the kernel.
const MAP_NAME: &str = "__map%d";
/// How keys and values are printed: the key is a number in this machine's byte order.
const MAP_PRINTED: [u8; 18] = [0, 4, 1, 0, 0, 0, 1, 4, 0, 0, 0, 0, 6, 4, 0, 0, 0, 0];

/// One message: what, its flags, its attributes.
type Message = (u8, u16, Attributes);

/// The transaction's bytes; `None` if it has to go through `nft`.
#[must_use]
pub fn encode(family: Family, commands: &[Command]) -> Option<Vec<u8>> {
    if commands.len() > MAX_COMMANDS {
        return None;
    }
    let mut messages: Vec<Message> = Vec::new();
    for command in commands {
        let table = Attributes::default().text(1, NAME);
        match command {
            Command::AddChain(name, "") => messages.push((NEW_CHAIN, CREATE, table.text(3, name))),
            Command::FlushChain(name) => messages.push((DELETE_RULE, 0, table.text(2, name))),
            Command::DeleteChain(name) => messages.push((DELETE_CHAIN, 0, table.text(3, name))),
            Command::AddRule(chain, rule) => {
                // The number by which the messages of one transaction know its sets.
                let id = u32::try_from(messages.len() + 1).ok()?;
                let expressions = rule_expressions(family, rule, id, &mut messages)?;
                let attributes = table.text(2, chain).nested(4, &expressions);
                messages.push((NEW_RULE, CREATE | APPEND, attributes));
            }
            Command::AddElement(map, key, value) => {
                let element = Attributes::default().nested(1, &data(&key_bytes(family, *map, key)?));
                let element = match value.as_str() {
                    "" => element,
                    verdict => element.nested(2, &verdict_data(verdict)?),
                };
                let list = Attributes::default().nested(1, &element);
                messages.push((NEW_ELEMENT, CREATE, table.text(2, map.name()).nested(3, &list)));
            }
            Command::DeleteElement(map, key) => {
                let element = Attributes::default().nested(1, &data(&key_bytes(family, *map, key)?));
                let list = Attributes::default().nested(1, &element);
                messages.push((DELETE_ELEMENT, 0, table.text(2, map.name()).nested(3, &list)));
            }
            _ => return None,
        }
    }
    let mut batch = Batch::new(family.number());
    for (message, flags, attributes) in &messages {
        batch.push(*message, *flags, attributes);
    }
    let bytes = batch.finish();
    (bytes.len() <= MAX_BYTES).then_some(bytes)
}

/// Runs an encoded transaction. Blocking, for about a millisecond.
///
/// # Errors
/// The kernel's refusal; nothing has changed then.
pub fn run(bytes: &[u8]) -> io::Result<()> {
    Socket::open()?.batch(bytes)
}

/// A value.
fn data(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

/// `goto CHAIN` or `drop`.
fn verdict_data(text: &str) -> Option<Attributes> {
    let verdict = match text.strip_prefix("goto ") {
        Some(chain) => Attributes::default().number(1, GOTO).text(2, chain),
        None if text == "drop" => Attributes::default().number(1, DROP),
        None => return None,
    };
    Some(Attributes::default().nested(2, &verdict))
}

/// A key as the kernel compares it: each part padded to four bytes.
fn key_bytes(family: Family, map: Map, key: &str) -> Option<Vec<u8>> {
    let parts: Vec<&str> = key.split(" . ").collect();
    let address = |text: &str| {
        let address = text.parse::<IpAddr>().ok().filter(|a| Family::of(a) == family)?;
        Some(match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        })
    };
    let protocol = |text: &str| Some(vec![protocol_number(text)?, 0, 0, 0]);
    let port = |text: &str| Some([&text.parse::<u16>().ok()?.to_be_bytes()[..], &[0, 0]].concat());
    Some(match (map, parts.as_slice()) {
        (Map::ServiceIps | Map::NoEndpointServices | Map::FirewallIps, [a, p, n]) => {
            [address(a)?, protocol(p)?, port(n)?].concat()
        }
        (Map::ServiceNodeports | Map::NoEndpointNodeports, [p, n]) => [protocol(p)?, port(n)?].concat(),
        (Map::ClusterIps, [a]) => address(a)?,
        (Map::Hairpin, [a, b, p, n]) => [address(a)?, address(b)?, protocol(p)?, port(n)?].concat(),
        _ => return None,
    })
}

fn protocol_number(text: &str) -> Option<u8> {
    Some(match text {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        _ => return None,
    })
}

fn expression(name: &str, attributes: &Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, attributes)
}

/// The expressions of a rule that [`crate::rules`] writes; a map that it needs is made by messages before it.
fn rule_expressions(family: Family, rule: &str, id: u32, messages: &mut Vec<Message>) -> Option<Attributes> {
    let list = |all: &[Attributes]| all.iter().fold(Attributes::default(), |list, one| list.nested(1, one));
    if rule.starts_with("goto ") {
        let jump = Attributes::default().number(1, 0).nested(2, &verdict_data(rule)?);
        return Some(list(&[expression("immediate", &jump)]));
    }
    if let Some(mark) = rule.strip_prefix("meta mark set meta mark or 0x") {
        let mark = u32::from_str_radix(mark, 16).ok()?;
        let load = Attributes::default().number(2, 3).number(1, 1);
        let or = Attributes::default().number(1, 1).number(2, 1).number(3, 4);
        let or = or
            .nested(4, &data(&(!mark).to_ne_bytes()))
            .nested(5, &data(&mark.to_ne_bytes()));
        let store = Attributes::default().number(2, 3).number(3, 1);
        return Some(list(&[
            expression("meta", &load),
            expression("bitwise", &or),
            expression("meta", &store),
        ]));
    }
    let (protocol, to) = rule.strip_prefix("meta l4proto ")?.split_once(" dnat ")?;
    let load = Attributes::default().number(2, 16).number(1, 1);
    let compare = Attributes::default().number(1, 1).number(2, 0);
    let compare = compare.nested(3, &data(&[protocol_number(protocol)?]));
    let nat = Attributes::default()
        .number(1, 1)
        .number(2, family.number().into())
        .number(3, 1);
    let mut all = vec![expression("meta", &load), expression("cmp", &compare)];
    if let Some(target) = to.strip_prefix("to ") {
        let target: SocketAddr = target.parse().ok()?;
        let immediate = |register, value: &[u8]| Attributes::default().number(1, register).nested(2, &data(value));
        all.push(expression("immediate", &immediate(1, &octets(target.ip()))));
        all.push(expression("immediate", &immediate(2, &target.port().to_be_bytes())));
        all.push(expression("nat", &nat.number(5, 2).number(7, 2)));
        return Some(list(&all));
    }
    let targets = to.strip_prefix(family.ip())?.strip_prefix(" to numgen random mod ")?;
    let (_, targets) = targets.split_once(" map { ")?;
    let targets = targets.strip_suffix(" }")?.split(", ").map(|one| {
        let (address, port) = one.split_once(" : ")?.1.split_once(" . ")?;
        Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
    });
    let targets: Vec<SocketAddr> = targets.collect::<Option<_>>()?;
    if targets.len() > MAX_ENDPOINTS {
        return None;
    }
    let count = u32::try_from(targets.len()).ok()?;
    map_of(family, &targets, count, id, messages);
    let number = Attributes::default()
        .number(1, 1)
        .number(2, count)
        .number(3, 1)
        .number(4, 0);
    let lookup = Attributes::default()
        .number(2, 1)
        .number(3, 1)
        .text(1, MAP_NAME)
        .number(4, id);
    all.push(expression("numgen", &number));
    all.push(expression("lookup", &lookup));
    // The port is in the register word after the address.
    let port_register = if family == Family::V4 { 9 } else { 12 };
    all.push(expression("nat", &nat.number(5, port_register)));
    Some(list(&all))
}

/// The anonymous map from a number to an endpoint.
fn map_of(family: Family, targets: &[SocketAddr], count: u32, id: u32, messages: &mut Vec<Message>) {
    // Type numbers of nft: an address is 7 or 8, a port 13; a concatenation has six bits for each.
    let (value_type, value_length) = if family == Family::V4 {
        (7 << 6 | 13, 8)
    } else {
        (8 << 6 | 13, 20)
    };
    let table = || Attributes::default().text(1, NAME).text(2, MAP_NAME);
    // Anonymous, constant, a map; its key is an integer of four bytes.
    let set = table().number(3, 1 | 2 | 8).number(4, 4).number(5, 4);
    let set = set.number(6, value_type).number(7, value_length).number(10, id);
    let set = set
        .nested(9, &Attributes::default().number(1, count))
        .bytes(13, &MAP_PRINTED);
    messages.push((NEW_SET, CREATE, set));
    let mut elements = Attributes::default();
    for (i, target) in (0u32..).zip(targets) {
        let value = [octets(target.ip()), target.port().to_be_bytes().to_vec(), vec![0, 0]].concat();
        let element = Attributes::default()
            .nested(1, &data(&i.to_ne_bytes()))
            .nested(2, &data(&value));
        elements = elements.nested(1, &element);
    }
    messages.push((NEW_ELEMENT, CREATE, table().number(4, id).nested(3, &elements)));
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
