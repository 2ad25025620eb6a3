//! From a question to a message: the server's whole decision, without sockets. Pure but for what [`Zone`] reads.
//!
//! [`respond`] takes the bytes of a query and gives the bytes of the answer, or says that somebody else must be asked
//! ([`Reply::Forward`]). What stays true: no input panics or recurses without bound; an answer never exceeds what the asker
//! can take (then `TC` is set); a response is never answered, so two servers cannot talk in circles.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::records::{self, Records};
use crate::source::Source;

/// Seconds that others may remember an answer, present or absent.
pub const TTL: u32 = 5;
/// What fits into one packet on every path (the usual agreement among DNS servers).
const UDP_LIMIT: u16 = 1232;
/// Seconds that a name outside may be remembered behind an alias of ours.
const MAX_FOREIGN_TTL: u32 = 30;
/// Aliases that may lead from one to the next.
const MAX_ALIASES: usize = 8;

/// What is known of the cluster, and under which domain.
pub struct Zone<'a> {
    pub source: &'a dyn Source,
    /// Absolute, lower case.
    pub domain: &'a Name,
    /// Whether the source knows everything yet.
    pub synced: bool,
    /// Whether names outside the cluster can be asked elsewhere.
    pub forwards: bool,
    /// Domains that can, even if others cannot.
    pub stubs: &'a [Name],
    /// The SOA record's serial number.
    pub serial: u32,
    /// Rotates the order of addresses: clients take the first.
    pub turn: usize,
}

/// How the query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask an upstream server.
    Forward,
    /// Ask an upstream server this, and [`complete`] the answer with what it says; if it says nothing, send it as it is.
    Complete(Box<Partial>),
    /// Not a query: say nothing.
    Silence,
}

/// An answer that ends with an alias to a name outside.
#[derive(Debug, PartialEq, Eq)]
pub struct Partial {
    pub answer: Vec<u8>,
    /// What the alias leads to.
    pub query: Vec<u8>,
    pub target: Name,
    limit: u16,
}

/// Puts the records of an upstream server's answer behind the alias.
#[must_use]
pub fn complete(partial: &Partial, upstream: &[u8]) -> Vec<u8> {
    let merged = || {
        let (mut ours, theirs) = (
            Message::from_vec(&partial.answer).ok()?,
            Message::from_vec(upstream).ok()?,
        );
        ours.add_answers(theirs.answers.into_iter().map(|mut record| {
            record.ttl = record.ttl.min(MAX_FOREIGN_TTL);
            record
        }));
        match finish(ours, partial.limit) {
            Reply::Answer(bytes) => Some(bytes),
            _ => None,
        }
    };
    merged().unwrap_or_else(|| partial.answer.clone())
}

/// "I could not find out", as an answer to `query`; `None` if that is no query.
#[must_use]
pub fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let request = Message::from_vec(query).ok()?;
    let mut response = Message::error_msg(request.metadata.id, request.metadata.op_code, ResponseCode::ServFail);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(request.queries);
    response.to_vec().ok()
}

/// Answers one query.
#[must_use]
pub fn respond(zone: &Zone, query: &[u8], transport: Transport) -> Reply {
    // Identifier and flags: without them there is nobody to answer.
    let Some(&[high, low, flags, ..]) = query.get(..12) else {
        return Reply::Silence;
    };
    let is_response = flags & 0x80 != 0;
    if is_response {
        return Reply::Silence;
    }
    let Ok(request) = Message::from_vec(query) else {
        let id = u16::from_be_bytes([high, low]);
        return finish(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), 512);
    };
    if request.metadata.message_type != MessageType::Query {
        return Reply::Silence;
    }
    let limit = match (transport, &request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(512, UDP_LIMIT),
        (Transport::Udp, None) => 512,
    };
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = zone.forwards;
    response.add_queries(request.queries.iter().cloned());
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LIMIT).set_version(0);
        response.set_edns(edns);
        if asked.version() != 0 {
            response.metadata.response_code = ResponseCode::BADVERS;
            return finish(response, limit);
        }
    }
    let refusal = match (request.metadata.op_code, request.queries.as_slice()) {
        (OpCode::Query, [question]) => match (question.query_class(), question.query_type()) {
            (_, RecordType::AXFR | RecordType::IXFR) => Some(ResponseCode::Refused),
            (DNSClass::IN | DNSClass::ANY, _) => None,
            _ => Some(ResponseCode::Refused),
        },
        (OpCode::Query, _) => Some(ResponseCode::FormErr),
        _ => Some(ResponseCode::NotImp),
    };
    if let Some(code) = refusal {
        response.metadata.response_code = code;
        return finish(response, limit);
    }
    let Some(question) = request.queries.first() else {
        return Reply::Silence;
    };
    let kind = question.query_type();
    let outside = match resolve(zone, question.name(), kind, &mut response) {
        Resolved::Here => None,
        Resolved::Elsewhere => return Reply::Forward,
        Resolved::Leads(target) => follow(&request, target, kind),
    };
    match (finish(response, limit), outside) {
        (Reply::Answer(answer), Some((query, target))) => Reply::Complete(Box::new(Partial {
            answer,
            query,
            target,
            limit,
        })),
        (reply, _) => reply,
    }
}

/// Where a name's records are.
enum Resolved {
    /// In the response.
    Here,
    /// Not with us.
    Elsewhere,
    /// In the response, as far as we know them; the rest is at this name outside.
    Leads(Name),
}

/// The question about an alias's target, asked as the client has asked.
fn follow(request: &Message, target: Name, kind: RecordType) -> Option<(Vec<u8>, Name)> {
    let mut query = Message::query();
    query.metadata.id = request.metadata.id;
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(target.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_LIMIT).set_version(0);
    query.set_edns(edns);
    Some((query.to_vec().ok()?, target))
}

fn can_forward(zone: &Zone, name: &Name) -> bool {
    zone.forwards || zone.stubs.iter().any(|stub| stub.zone_of(name))
}

/// Fills in the answer.
fn resolve(zone: &Zone, name: &Name, kind: RecordType, response: &mut Message) -> Resolved {
    if !name.is_fqdn() {
        response.metadata.response_code = ResponseCode::FormErr;
        return Resolved::Here;
    }
    if zone.domain.zone_of(name) {
        response.metadata.authoritative = true;
        if !zone.synced {
            response.metadata.authoritative = false;
            response.metadata.response_code = ResponseCode::ServFail;
            return Resolved::Here;
        }
        return inside(zone, name.clone(), kind, response);
    }
    if let Some(address) = reverse(name) {
        if !zone.synced {
            response.metadata.response_code = ResponseCode::ServFail;
            return Resolved::Here;
        }
        let names = records::names_at(zone.source, address);
        if !names.is_empty() {
            response.metadata.authoritative = true;
            if matches!(kind, RecordType::PTR | RecordType::ANY) {
                let targets = names.iter().filter_map(|n| absolute(n, zone.domain));
                response.add_answers(targets.map(|t| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(t)))));
            }
            negative_if_empty(zone, response);
            return Resolved::Here;
        }
    }
    if can_forward(zone, name) {
        return Resolved::Elsewhere;
    }
    // Nothing outside can be reached, so nothing outside exists: a clear answer, where a refusal would make resolvers
    // try again and again.
    response.metadata.response_code = ResponseCode::NXDomain;
    Resolved::Here
}

/// A name below the cluster domain, and where its aliases lead.
fn inside(zone: &Zone, mut name: Name, kind: RecordType, response: &mut Message) -> Resolved {
    for _ in 0..MAX_ALIASES {
        let Some(found) = lookup(zone, &name) else {
            // An alias to nowhere is still an answer.
            if response.answers.is_empty() {
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            break;
        };
        let Some(alias) = found.alias.as_deref() else {
            add(zone, &name, kind, &found, response);
            break;
        };
        let Some(target) = Name::from_str_relaxed(alias.to_ascii_lowercase()).ok().map(fqdn) else {
            break;
        };
        response.add_answer(Record::from_rdata(name, TTL, RData::CNAME(CNAME(target.clone()))));
        if kind == RecordType::CNAME {
            break;
        }
        if !zone.domain.zone_of(&target) {
            if can_forward(zone, &target) {
                return Resolved::Leads(target);
            }
            break;
        }
        name = target;
    }
    negative_if_empty(zone, response);
    Resolved::Here
}

/// The records of an absolute name in the zone.
fn lookup(zone: &Zone, name: &Name) -> Option<Records> {
    let count = name.iter().len().saturating_sub(zone.domain.iter().len());
    let labels: Option<Vec<String>> = name
        .iter()
        .take(count)
        .map(|l| std::str::from_utf8(l).ok().map(str::to_ascii_lowercase))
        .collect();
    let labels = labels?;
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    records::find(zone.source, &labels)
}

fn add(zone: &Zone, name: &Name, kind: RecordType, found: &Records, response: &mut Message) {
    let wants = |k: RecordType| kind == k || kind == RecordType::ANY;
    let mut addresses: Vec<IpAddr> = found.addresses.iter().copied().filter(|a| wants(type_of(a))).collect();
    if !addresses.is_empty() {
        let middle = zone.turn % addresses.len();
        addresses.rotate_left(middle);
    }
    response.add_answers(addresses.into_iter().map(|a| address_record(name, a)));
    if wants(RecordType::SRV) {
        // Equal weights that add up to at most 100, as other cluster DNS servers have them.
        let weight = u16::try_from(100 / found.servers.len().max(1)).unwrap_or(1).max(1);
        for server in &found.servers {
            let Some(target) = absolute(&server.target, zone.domain) else {
                continue;
            };
            let data = SRV::new(0, weight, server.port, target.clone());
            response.add_answer(Record::from_rdata(name.clone(), TTL, RData::SRV(data)));
            for address in &server.addresses {
                let record = address_record(&target, *address);
                if !response.additionals.contains(&record) {
                    response.add_additional(record);
                }
            }
        }
    }
    if let Some(text) = found.text.filter(|_| wants(RecordType::TXT)) {
        let data = RData::TXT(TXT::new(vec![text.to_owned()]));
        response.add_answer(Record::from_rdata(name.clone(), TTL, data));
    }
    if name == zone.domain {
        if wants(RecordType::SOA) {
            response.answers.extend(start_of_authority(zone));
        }
        if wants(RecordType::NS)
            && let Some(server) = absolute("ns.dns", zone.domain)
        {
            response.add_answer(Record::from_rdata(name.clone(), TTL, RData::NS(NS(server))));
        }
    }
}

fn type_of(address: &IpAddr) -> RecordType {
    if address.is_ipv4() {
        RecordType::A
    } else {
        RecordType::AAAA
    }
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name.clone(), TTL, data)
}

/// "No" carries the SOA record, so that it is remembered no longer than its minimum says.
fn negative_if_empty(zone: &Zone, response: &mut Message) {
    if response.answers.is_empty() {
        response.authorities.extend(start_of_authority(zone));
    }
}

fn start_of_authority(zone: &Zone) -> Option<Record> {
    let (server, person) = (absolute("ns.dns", zone.domain)?, absolute("hostmaster", zone.domain)?);
    let data = SOA::new(server, person, zone.serial, 7200, 1800, 86_400, TTL);
    Some(Record::from_rdata(zone.domain.clone(), TTL, RData::SOA(data)))
}

/// A relative name below the domain; `None` if it is too long to be a name.
fn absolute(relative: &str, domain: &Name) -> Option<Name> {
    Name::from_str_relaxed(relative).ok()?.append_domain(domain).ok()
}

fn fqdn(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}

/// The one address that a reverse name stands for.
fn reverse(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// The message in bytes, with fewer records if it would be too long.
fn finish(mut message: Message, limit: u16) -> Reply {
    let limit = usize::from(limit);
    loop {
        let Ok(bytes) = message.to_vec() else {
            return Reply::Silence;
        };
        if bytes.len() <= limit {
            return Reply::Answer(bytes);
        }
        if !message.additionals.is_empty() {
            message.additionals.clear();
            continue;
        }
        // Some addresses are better than none for a client that does not ask again over TCP.
        message.metadata.truncation = true;
        let keep = (message.answers.len() * limit / bytes.len()).min(message.answers.len().saturating_sub(1));
        if message.answers.is_empty() {
            return Reply::Silence;
        }
        message.answers.truncate(keep);
    }
}
