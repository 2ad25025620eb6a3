//! Questions and answers over a small cluster, as bytes in and bytes out.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;
use serde_json::{Value, json};
use steersman_dns::answer::{Reply, Transport, Zone, complete, respond};
use steersman_dns::source::{Source, service_of};
use steersman_types::Typed;
use steersman_types::api::core::v1::Service;
use steersman_types::api::discovery::v1::EndpointSlice;

#[derive(Default)]
struct Fixture {
    services: BTreeMap<(String, String), Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Fixture {
    fn put_service(&mut self, namespace: &str, name: &str, spec: Value) {
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": spec});
        self.services.insert(
            (namespace.into(), name.into()),
            Arc::new(Service::from_value(&value).unwrap()),
        );
    }

    fn put_slice(&mut self, namespace: &str, service: &str, kind: &str, ports: Value, endpoints: Value) {
        let value = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": namespace, "name": format!("{service}-{kind}"), "labels": {"kubernetes.io/service-name": service}},
            "addressType": kind, "ports": ports, "endpoints": endpoints});
        self.slices.push(Arc::new(EndpointSlice::from_value(&value).unwrap()));
    }
}

impl Source for Fixture {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&(namespace.into(), name.into())).cloned()
    }
    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices
            .iter()
            .filter(|s| service_of(s) == Some((namespace, name)))
            .cloned()
            .collect()
    }
    fn services_at(&self, address: &str) -> Vec<Arc<Service>> {
        let at = |s: &Service| {
            s.spec
                .as_ref()
                .unwrap()
                .cluster_ips
                .iter()
                .flatten()
                .any(|a| a == address)
        };
        self.services.values().filter(|s| at(s)).cloned().collect()
    }
    fn slices_at(&self, address: &str) -> Vec<Arc<EndpointSlice>> {
        let at = |s: &EndpointSlice| {
            s.endpoints
                .iter()
                .flatten()
                .any(|e| e.addresses.iter().any(|a| a == address))
        };
        self.slices.iter().filter(|s| at(s)).cloned().collect()
    }
    fn has_namespace(&self, namespace: &str) -> bool {
        self.services.keys().any(|(ns, _)| ns == namespace)
    }
}

fn cluster() -> Fixture {
    let mut cluster = Fixture::default();
    let ports =
        json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    cluster.put_service(
        "default",
        "web",
        json!({"clusterIP": "10.232.0.5", "clusterIPs": ["10.232.0.5", "fd01::5"], "ports": ports}),
    );
    cluster.put_service(
        "default",
        "db",
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]}),
    );
    cluster.put_service("default", "empty", json!({"clusterIP": "None", "ports": []}));
    cluster.put_service(
        "default",
        "out",
        json!({"type": "ExternalName", "externalName": "Example.org"}),
    );
    cluster.put_service(
        "default",
        "alias",
        json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}),
    );
    cluster.put_service(
        "default",
        "loop",
        json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"}),
    );
    cluster.put_slice(
        "default",
        "db",
        "IPv4",
        json!([{"name": "sql", "port": 5433, "protocol": "TCP"}]),
        json!([
            {"addresses": ["10.231.1.2"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.231.2.3"]},
            {"addresses": ["10.231.2.4"], "hostname": "db-2", "conditions": {"ready": false}},
        ]),
    );
    cluster
}

fn zone<'a>(cluster: &'a Fixture, domain: &'a Name) -> Zone<'a> {
    Zone {
        source: cluster,
        domain,
        synced: true,
        forwards: false,
        stubs: &[],
        serial: 1,
        turn: 0,
    }
}

fn domain() -> Name {
    Name::from_ascii("cluster.local.").unwrap()
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn send(cluster: &Fixture, message: &Message, transport: Transport) -> Message {
    match respond(&zone(cluster, &domain()), &message.to_vec().unwrap(), transport) {
        Reply::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// `CODE: TYPE DATA, …`, sorted, with `SOA` when a negative answer has one.
fn ask(name: &str, kind: RecordType) -> String {
    let answer = send(&cluster(), &query(name, kind), Transport::Udp);
    let mut records: Vec<String> = answer
        .answers
        .iter()
        .map(|r| format!("{} {}", r.record_type(), r.data))
        .collect();
    records.sort();
    records.extend(answer.authorities.iter().map(|r| r.record_type().to_string()));
    let code = match answer.metadata.response_code {
        ResponseCode::NoError => "ok",
        ResponseCode::NXDomain => "nxdomain",
        _ => "error",
    };
    format!("{code}: {}", records.join(", "))
}

#[test]
fn a_service_has_its_cluster_ips() {
    assert_eq!(ask("web.default.svc.cluster.local.", RecordType::A), "ok: A 10.232.0.5");
    assert_eq!(
        ask("web.default.svc.cluster.local.", RecordType::AAAA),
        "ok: AAAA fd01::5"
    );
    assert_eq!(ask("WEB.Default.svc.Cluster.LOCAL.", RecordType::A), "ok: A 10.232.0.5");
    assert_eq!(ask("web.default.svc.cluster.local.", RecordType::MX), "ok: SOA");
}

#[test]
fn a_headless_service_has_its_ready_endpoints_and_their_host_names() {
    assert_eq!(
        ask("db.default.svc.cluster.local.", RecordType::A),
        "ok: A 10.231.1.2, A 10.231.2.3"
    );
    assert_eq!(
        ask("db-0.db.default.svc.cluster.local.", RecordType::A),
        "ok: A 10.231.1.2"
    );
    assert_eq!(
        ask("10-231-2-3.db.default.svc.cluster.local.", RecordType::A),
        "ok: A 10.231.2.3"
    );
    assert_eq!(
        ask("db-2.db.default.svc.cluster.local.", RecordType::A),
        "nxdomain: SOA"
    );
    assert_eq!(ask("empty.default.svc.cluster.local.", RecordType::A), "nxdomain: SOA");
    assert_eq!(ask("db.default.svc.cluster.local.", RecordType::AAAA), "ok: SOA");
}

#[test]
fn unready_endpoints_are_named_when_the_service_wants_it() {
    let mut cluster = cluster();
    cluster.put_service(
        "default",
        "db",
        json!({"clusterIP": "None", "publishNotReadyAddresses": true}),
    );
    let answer = send(
        &cluster,
        &query("db-2.db.default.svc.cluster.local.", RecordType::A),
        Transport::Udp,
    );
    assert_eq!(answer.answers.len(), 1);
}

#[test]
fn srv_records_name_ports_and_bring_the_addresses_along() {
    assert_eq!(
        ask("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV),
        "ok: SRV 0 100 80 web.default.svc.cluster.local."
    );
    assert_eq!(
        ask("_http._udp.web.default.svc.cluster.local.", RecordType::SRV),
        "nxdomain: SOA"
    );
    assert_eq!(
        ask("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV),
        "ok: SRV 0 50 5433 10-231-2-3.db.default.svc.cluster.local., SRV 0 50 5433 db-0.db.default.svc.cluster.local."
    );
    let answer = send(
        &cluster(),
        &query("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV),
        Transport::Udp,
    );
    assert_eq!(answer.additionals.len(), 2);
    assert_eq!(ask("_tcp.web.default.svc.cluster.local.", RecordType::SRV), "ok: SOA");
}

#[test]
fn external_names_are_aliases_and_aliases_inside_are_followed() {
    assert_eq!(
        ask("out.default.svc.cluster.local.", RecordType::A),
        "ok: CNAME example.org."
    );
    assert_eq!(
        ask("alias.default.svc.cluster.local.", RecordType::A),
        "ok: A 10.232.0.5, CNAME web.default.svc.cluster.local."
    );
    assert!(ask("loop.default.svc.cluster.local.", RecordType::A).starts_with("ok: CNAME loop"));
}

#[test]
fn addresses_have_names() {
    assert_eq!(
        ask("5.0.232.10.in-addr.arpa.", RecordType::PTR),
        "ok: PTR web.default.svc.cluster.local."
    );
    assert_eq!(
        ask("2.1.231.10.in-addr.arpa.", RecordType::PTR),
        "ok: PTR db-0.db.default.svc.cluster.local."
    );
    assert_eq!(ask("4.2.231.10.in-addr.arpa.", RecordType::PTR), "nxdomain: ");
    let six = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa.";
    assert_eq!(ask(six, RecordType::PTR), "ok: PTR web.default.svc.cluster.local.");
}

#[test]
fn pods_are_named_by_their_address() {
    assert_eq!(
        ask("10-231-1-2.default.pod.cluster.local.", RecordType::A),
        "ok: A 10.231.1.2"
    );
    assert_eq!(
        ask("fd00--7.default.pod.cluster.local.", RecordType::AAAA),
        "ok: AAAA fd00::7"
    );
    assert_eq!(ask("web.default.pod.cluster.local.", RecordType::A), "nxdomain: SOA");
}

#[test]
fn the_version_and_the_zone_itself() {
    assert_eq!(ask("dns-version.cluster.local.", RecordType::TXT), "ok: TXT 1.1.0");
    assert!(
        ask("cluster.local.", RecordType::SOA)
            .starts_with("ok: SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200")
    );
    assert_eq!(ask("cluster.local.", RecordType::NS), "ok: NS ns.dns.cluster.local.");
    assert_eq!(ask("svc.cluster.local.", RecordType::A), "ok: SOA");
    assert_eq!(ask("default.svc.cluster.local.", RecordType::A), "ok: SOA");
}

#[test]
fn what_does_not_exist_is_said_so() {
    for name in [
        "nope.default.svc.cluster.local.",
        "nope.svc.cluster.local.",
        "a.b.c.d.e.f.svc.cluster.local.",
        "x.cluster.local.",
    ] {
        assert_eq!(ask(name, RecordType::A), "nxdomain: SOA", "{name}");
    }
    assert_eq!(ask("example.org.", RecordType::A), "nxdomain: ");
}

#[test]
fn outside_names_go_to_upstream_servers_if_there_are_any() {
    let cluster = cluster();
    let domain = domain();
    let zone = Zone {
        forwards: true,
        ..zone(&cluster, &domain)
    };
    let ask = |name: &str| respond(&zone, &query(name, RecordType::A).to_vec().unwrap(), Transport::Udp);
    assert_eq!(ask("example.org."), Reply::Forward);
    assert_eq!(ask("8.8.8.8.in-addr.arpa."), Reply::Forward);
    assert!(matches!(ask("nope.default.svc.cluster.local."), Reply::Answer(_)));
}

#[test]
fn a_stub_domain_is_asked_about_alone() {
    let (cluster, domain) = (cluster(), domain());
    let stubs = [Name::from_ascii("corp.example.").unwrap()];
    let zone = Zone {
        stubs: &stubs,
        ..zone(&cluster, &domain)
    };
    let ask = |name: &str| respond(&zone, &query(name, RecordType::A).to_vec().unwrap(), Transport::Udp);
    assert_eq!(ask("www.Corp.example."), Reply::Forward);
    assert!(matches!(ask("example.org."), Reply::Answer(_)));
}

#[test]
fn an_alias_that_leads_outside_is_completed_by_an_upstream_server() {
    let (cluster, domain) = (cluster(), domain());
    let zone = Zone {
        forwards: true,
        ..zone(&cluster, &domain)
    };
    let bytes = query("out.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let Reply::Complete(partial) = respond(&zone, &bytes, Transport::Udp) else {
        panic!("not to be completed");
    };
    let asked = Message::from_vec(&partial.query).unwrap();
    assert_eq!(asked.queries[0].to_string(), "example.org. IN A");
    let mut upstream = Message::response(asked.metadata.id, OpCode::Query);
    upstream.add_queries(asked.queries.clone());
    let address = RData::A("192.0.2.9".parse().unwrap());
    upstream.add_answer(Record::from_rdata(asked.queries[0].name().clone(), 3600, address));
    let whole = Message::from_vec(&complete(&partial, &upstream.to_vec().unwrap())).unwrap();
    let shown: Vec<String> = whole.answers.iter().map(|r| format!("{} {}", r.ttl, r.data)).collect();
    assert_eq!(shown, ["5 example.org.", "30 192.0.2.9"]);
    // Nonsense from outside leaves what we know.
    let alone = Message::from_vec(&complete(&partial, &[1, 2, 3])).unwrap();
    assert_eq!(alone.answers.len(), 1);
    // Who asks for the alias gets the alias.
    let bytes = query("out.default.svc.cluster.local.", RecordType::CNAME)
        .to_vec()
        .unwrap();
    assert!(matches!(respond(&zone, &bytes, Transport::Udp), Reply::Answer(_)));
}

#[test]
fn before_the_first_lists_nothing_is_denied() {
    let cluster = cluster();
    let domain = domain();
    let zone = Zone {
        synced: false,
        ..zone(&cluster, &domain)
    };
    let Reply::Answer(bytes) = respond(
        &zone,
        &query("nope.default.svc.cluster.local.", RecordType::A)
            .to_vec()
            .unwrap(),
        Transport::Udp,
    ) else {
        panic!("no answer");
    };
    assert_eq!(
        Message::from_vec(&bytes).unwrap().metadata.response_code,
        ResponseCode::ServFail
    );
}

#[test]
fn long_answers_are_cut_for_udp_and_whole_over_tcp() {
    let mut cluster = cluster();
    let endpoints: Vec<Value> = (0..200)
        .map(|i| json!({"addresses": [format!("10.231.3.{i}")]}))
        .collect();
    cluster.put_slice("default", "empty", "IPv4", json!([]), json!(endpoints));
    let mut message = query("empty.default.svc.cluster.local.", RecordType::A);
    let plain = message.to_vec().unwrap();
    let size = |bytes: &[u8], transport| match respond(&zone(&cluster, &domain()), bytes, transport) {
        Reply::Answer(answer) => answer.len(),
        other => panic!("{other:?}"),
    };
    assert!(size(&plain, Transport::Udp) <= 512);
    let short = send(&cluster, &message, Transport::Udp);
    assert!(short.metadata.truncation && !short.answers.is_empty());
    let whole = send(&cluster, &message, Transport::Tcp);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    assert!((513..=1232).contains(&size(&message.to_vec().unwrap(), Transport::Udp)));
}

#[test]
fn the_order_of_addresses_turns() {
    let cluster = cluster();
    let domain = domain();
    let first = |turn| {
        let zone = Zone {
            turn,
            ..zone(&cluster, &domain)
        };
        let bytes = query("db.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
        let Reply::Answer(answer) = respond(&zone, &bytes, Transport::Udp) else {
            panic!("no answer")
        };
        match Message::from_vec(&answer)
            .unwrap()
            .answers
            .first()
            .map(|r| r.data.clone())
        {
            Some(RData::A(a)) => a.0.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (first(0), first(1), first(2)),
        ("10.231.1.2".into(), "10.231.2.3".into(), "10.231.1.2".into())
    );
}

#[test]
fn what_is_no_plain_question_is_refused_with_its_code() {
    let cluster = cluster();
    let code = |message: &Message| send(&cluster, message, Transport::Udp).metadata.response_code;
    let name = "web.default.svc.cluster.local.";
    assert_eq!(code(&query(name, RecordType::AXFR)), ResponseCode::Refused);
    let mut chaos = query(name, RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let mut notify = query(name, RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&notify), ResponseCode::NotImp);
    let mut two = query(name, RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut future = query(name, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(9);
    future.set_edns(edns);
    assert_eq!(u16::from(code(&future)), 16, "BADVERS");
}

#[test]
fn responses_and_scraps_are_met_with_silence() {
    let cluster = cluster();
    let domain = domain();
    let zone = zone(&cluster, &domain);
    let mut response = query("web.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    response[2] |= 0x80;
    assert_eq!(respond(&zone, &response, Transport::Udp), Reply::Silence);
    assert_eq!(respond(&zone, &[1, 2, 3], Transport::Udp), Reply::Silence);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_answer_too_much(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let cluster = cluster();
        let domain = domain();
        if let Reply::Answer(answer) = respond(&zone(&cluster, &domain), &bytes, Transport::Udp) {
            prop_assert!(answer.len() <= 1232);
        }
    }

    #[test]
    fn a_damaged_query_never_panics(position in 0usize..60, value: u8, cut in 0usize..60) {
        let cluster = cluster();
        let domain = domain();
        let mut bytes = query("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV).to_vec().unwrap();
        if let Some(byte) = bytes.get_mut(position) {
            *byte = value;
        }
        bytes.truncate(bytes.len().saturating_sub(cut / 2));
        for transport in [Transport::Udp, Transport::Tcp] {
            let _ = respond(&zone(&cluster, &domain), &bytes, transport);
        }
    }

    #[test]
    fn any_name_is_answered(labels in prop::collection::vec("[a-z0-9_-]{1,63}", 0..5), kind in 0u16..300) {
        let cluster = cluster();
        let domain = domain();
        let text = labels.iter().map(|l| format!("{l}.")).collect::<String>() + "cluster.local.";
        if let Ok(name) = Name::from_ascii(&text) {
            let mut message = Message::query();
            message.add_query(Query::query(name, RecordType::from(kind)));
            if let Ok(bytes) = message.to_vec() {
                prop_assert!(matches!(respond(&zone(&cluster, &domain), &bytes, Transport::Udp), Reply::Answer(_)));
            }
        }
    }
}
