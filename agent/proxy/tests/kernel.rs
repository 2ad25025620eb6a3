//! The rules against a real kernel, in network namespaces of their own that have only loopback. Needs root; without it the
//! tests say so and pass.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command as Process, Output, Stdio};
use std::time::Duration;

use common::{node, service, settings, slice};
use rustix::thread::LinkNameSpaceType;
use serde_json::json;
use steersman_proxy::family::Family;
use steersman_proxy::rules::{Fragment, fragment};
use steersman_proxy::stale::{self, Fronts};
use steersman_proxy::table::{Command, Owner, Table, script};
use steersman_proxy::{base, batch, conntrack, kernel};

/// A namespace with loopback up, as long as this lives.
struct Namespace {
    holder: std::process::Child,
}

impl Namespace {
    fn new() -> Option<Self> {
        let id = Process::new("id").arg("-u").output().ok()?;
        if id.stdout != b"0\n" {
            eprintln!("skipped: needs root");
            return None;
        }
        let holder = Process::new("unshare").args(["--net", "sleep", "60"]).spawn().ok()?;
        let namespace = Self { holder };
        // Until the child has left our namespace.
        let own = std::fs::read_link("/proc/self/ns/net").ok()?;
        while std::fs::read_link(format!("/proc/{}/ns/net", namespace.holder.id())).ok()? == own {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        namespace.sh("ip link set lo up; ip addr add 10.231.1.2/32 dev lo; ip addr add 10.231.1.3/32 dev lo; \
             ip link add v0 type veth peer name v1; ip addr add 198.18.30.11/24 dev v0; ip link set v0 up; ip link set v1 up; \
             ip route add 10.232.0.0/16 via 198.18.30.1");
        Some(namespace)
    }

    fn run(&self, program: &str, args: &[&str], input: &str) -> Output {
        let target = self.holder.id().to_string();
        let mut child = Process::new("nsenter")
            .args(["-t", &target, "--net", "--", program])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn sh(&self, text: &str) -> String {
        let output = self.run("sh", &["-c", text], "");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn nft(&self, family: Family, commands: &[Command]) {
        let text = script(family, commands);
        let output = self.run("nft", &["-f", "-"], &text);
        assert!(
            output.status.success(),
            "{}\n{text}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Serves on `servers`, connects to `address` forty times, and says who answered or why not.
    fn ask(&self, servers: &[&str], address: &str) -> Vec<String> {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.holder.id())).unwrap();
        // A namespace is a thread's property: what this thread starts is inside, everything else is not.
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                let stop = std::sync::atomic::AtomicBool::new(false);
                std::thread::scope(|scope| {
                    for server in servers {
                        let listener = TcpListener::bind(server).unwrap();
                        listener.set_nonblocking(true).unwrap();
                        let stop = &stop;
                        scope.spawn(move || {
                            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                                match listener.accept() {
                                    Ok((mut client, _)) => client.write_all(server.as_bytes()).unwrap(),
                                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                                }
                            }
                        });
                    }
                    let mut seen = std::collections::BTreeSet::new();
                    for _ in 0..40 {
                        let answer = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(2))
                            .and_then(|mut c| {
                                let mut text = String::new();
                                c.read_to_string(&mut text).map(|_| text)
                            });
                        seen.insert(answer.unwrap_or_else(|e| e.kind().to_string()));
                    }
                    stop.store(true, std::sync::atomic::Ordering::Relaxed);
                    seen.into_iter().collect()
                })
            });
            inside.join().unwrap()
        })
    }

    /// The table without what changes by itself.
    fn listing(&self, family: Family) -> String {
        self.sh(&format!("nft list table {} kube-proxy", family.ip()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn web(endpoints: &[&str], affinity: bool) -> Fragment {
    let mut spec = json!({"type": "NodePort", "clusterIP": "10.232.0.5", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]});
    if affinity {
        spec["sessionAffinity"] = json!("ClientIP");
    }
    let endpoints: Vec<_> = endpoints.iter().map(|e| (*e, "node-1", true, true, false)).collect();
    let slices = [slice(
        "web",
        json!({"name": "", "port": 8080, "protocol": "TCP"}),
        &endpoints,
    )];
    fragment(&service("web", spec), &slices, Family::V4, &node(), &settings())
}

fn ranges() -> Vec<ipnet::IpNet> {
    ["10.232.0.0/16", "fd01::/108"].map(|r| r.parse().unwrap()).to_vec()
}

fn owner() -> Owner {
    ("ns".into(), "web".into())
}

#[test]
fn every_statement_is_accepted_in_both_families() {
    let Some(namespace) = Namespace::new() else { return };
    for family in [Family::V4, Family::V6] {
        let mut table = Table::new(family);
        let mut node = node();
        node.addresses.push("fd00::11".parse().unwrap());
        let range = |v4: &str, v6: &str| {
            if family == Family::V4 {
                v4.to_owned()
            } else {
                v6.to_owned()
            }
        };
        let kind = family.slice_type();
        let mut service = service(
            "all",
            json!({"type": "LoadBalancer", "clusterIP": range("10.232.0.9", "fd01::9"), "externalIPs": [range("192.0.2.1", "2001:db8::1")],
                "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
                "loadBalancerSourceRanges": [range("203.0.113.0/24", "2001:db8:1::/48")],
                "ports": [{"name": "t", "port": 80, "nodePort": 30001, "protocol": "TCP"}, {"name": "u", "port": 80, "nodePort": 30001, "protocol": "UDP"},
                    {"name": "s", "port": 81, "nodePort": 30002, "protocol": "SCTP"}]}),
        );
        service.status =
            serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": range("192.0.2.2", "2001:db8::2")}]}}))
                .unwrap();
        let (a, b) = (range("10.231.1.2", "fd02::2"), range("10.231.1.3", "fd02::3"));
        let slices: Vec<_> = [("t", "TCP"), ("u", "UDP"), ("s", "SCTP")]
            .map(|(name, protocol)| {
                let mut slice = slice(
                    "all",
                    json!({"name": name, "port": 8080, "protocol": protocol}),
                    &[(&a, "node-1", true, true, false), (&b, "node-2", true, true, false)],
                );
                std::sync::Arc::make_mut(&mut slice).address_type = kind.into();
                slice
            })
            .to_vec();
        let _ = table.replace(vec![(
            owner(),
            Some(fragment(&service, &slices, family, &node, &settings())),
        )]);
        namespace.nft(
            family,
            &table.rebuild(base::commands(family, &node, &settings(), &ranges())),
        );
        // Again over itself, then with fewer endpoints, then gone.
        namespace.nft(
            family,
            &table.rebuild(base::commands(family, &node, &settings(), &ranges())),
        );
        for slices in [&slices[..1], &[]] {
            let transaction = table.replace(vec![(
                owner(),
                Some(fragment(&service, slices, family, &node, &settings())),
            )]);
            namespace.nft(family, &transaction.apply);
            namespace.nft(family, &transaction.cleanup);
            table.cleaned();
        }
    }
}

#[test]
fn incremental_changes_leave_the_kernel_as_a_rebuild_would() {
    let Some(namespace) = Namespace::new() else { return };
    let mut table = Table::new(Family::V4);
    let base = || base::commands(Family::V4, &node(), &settings(), &[]);
    namespace.nft(Family::V4, &table.rebuild(base()));
    for fragment in [
        web(&["10.231.1.2"], false),
        web(&["10.231.1.2", "10.231.1.3"], true),
        web(&[], false),
        web(&["10.231.1.3"], true),
    ] {
        let transaction = table.replace(vec![(owner(), Some(fragment))]);
        namespace.nft(Family::V4, &transaction.apply);
        namespace.nft(Family::V4, &transaction.cleanup);
        table.cleaned();
    }
    let sorted = |text: String| {
        let mut blocks: Vec<String> = text
            .split("\n\n")
            .map(|b| {
                b.replace("table ip kube-proxy {\n", "")
                    .trim_end_matches(['}', '\n'])
                    .to_owned()
            })
            .collect();
        blocks.sort();
        blocks
    };
    let stepwise = sorted(namespace.listing(Family::V4));
    namespace.nft(Family::V4, &table.rebuild(base()));
    assert_eq!(stepwise, sorted(namespace.listing(Family::V4)));
    assert!(stepwise.iter().any(|block| block.contains("10.231.1.3:8080")));
}

#[test]
fn connections_reach_an_endpoint_by_cluster_ip_and_by_node_port_and_are_refused_without_one() {
    let Some(namespace) = Namespace::new() else { return };
    let mut table = Table::new(Family::V4);
    namespace.nft(
        Family::V4,
        &table.rebuild(base::commands(Family::V4, &node(), &settings(), &[])),
    );
    namespace.nft(
        Family::V4,
        &table
            .replace(vec![(owner(), Some(web(&["10.231.1.2", "10.231.1.3"], false)))])
            .apply,
    );
    let ask = |address: &str| namespace.ask(&["10.231.1.2:8080", "10.231.1.3:8080"], address);
    let both = ["10.231.1.2:8080", "10.231.1.3:8080"];
    let refused = ["connection refused"];
    assert_eq!(ask("10.232.0.5:80"), both);
    assert_eq!(ask("198.18.30.11:30080"), both);
    assert_eq!(ask("10.232.0.5:81"), refused);

    namespace.nft(
        Family::V4,
        &table.replace(vec![(owner(), Some(web(&["10.231.1.3"], true)))]).apply,
    );
    assert_eq!(ask("10.232.0.5:80"), ["10.231.1.3:8080"]);

    namespace.nft(Family::V4, &table.replace(vec![(owner(), Some(web(&[], false)))]).apply);
    assert_eq!(ask("10.232.0.5:80"), refused);
    assert_eq!(ask("198.18.30.11:30080"), refused);
}

/// Runs `work` on a thread that is inside the namespace.
fn inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    let file = std::fs::File::open(format!("/proc/{}/ns/net", namespace.holder.id())).unwrap();
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

#[test]
fn a_udp_client_that_never_pauses_reaches_the_endpoint_that_replaces_its_own() {
    let Some(namespace) = Namespace::new() else { return };
    let of = |endpoint: &str| {
        let spec = json!({"type": "NodePort", "clusterIP": "10.232.0.5", "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]});
        let slices = [slice(
            "web",
            json!({"name": "", "port": 5353, "protocol": "UDP"}),
            &[(endpoint, "node-1", true, true, false)],
        )];
        fragment(&service("web", spec), &slices, Family::V4, &node(), &settings())
    };
    let mut table = Table::new(Family::V4);
    namespace.nft(
        Family::V4,
        &table.rebuild(base::commands(Family::V4, &node(), &settings(), &[])),
    );
    let mut change = |endpoint: &str| {
        let after = of(endpoint);
        let may_be = stale::may_be(table.fragment(&owner()), Some(&after));
        let mut fronts = Fronts::default();
        fronts.add(&after);
        namespace.nft(Family::V4, &table.replace(vec![(owner(), Some(after))]).apply);
        (may_be, fronts)
    };
    let forget = |fronts: &Fronts| {
        let (node, settings) = (node(), settings());
        let is_node = |address| settings.serves_node_ports(address, &node);
        conntrack::forget(Family::V4, |flow| fronts.is_stale(flow, is_node)).unwrap()
    };
    inside(&namespace, || {
        let servers = ["10.231.1.2:5353", "10.231.1.3:5353"].map(|a| UdpSocket::bind(a).unwrap());
        let clients = ["198.18.30.11:4001", "198.18.30.11:4002"].map(|a| UdpSocket::bind(a).unwrap());
        for socket in &servers {
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        }
        let targets = ["10.232.0.5:53", "198.18.30.11:30053"];
        let arrives_at = |expected: usize| {
            for (client, target) in clients.iter().zip(targets) {
                client.send_to(b"x", target).unwrap();
                let mut buffer = [0; 8];
                let got = servers[expected].recv_from(&mut buffer);
                assert!(got.is_ok(), "{target} reaches server {expected}: {got:?}");
            }
        };
        assert!(change("10.231.1.2").0);
        arrives_at(0);
        let (may_be, fronts) = change("10.231.1.3");
        assert!(may_be);
        // Both clients' connections still lead to the first.
        arrives_at(0);
        assert_eq!(forget(&fronts), 2);
        arrives_at(1);
        assert_eq!(forget(&fronts), 0);
        assert!(!change("10.231.1.3").0);
    });
}

#[test]
fn a_table_that_was_taken_away_is_noticed() {
    let Some(namespace) = Namespace::new() else { return };
    let handle = || inside(&namespace, || kernel::table_handle(Family::V4).unwrap());
    assert_eq!(handle(), None);
    let mut table = Table::new(Family::V4);
    let mut rebuild = || {
        namespace.nft(
            Family::V4,
            &table.rebuild(base::commands(Family::V4, &node(), &settings(), &[])),
        )
    };
    rebuild();
    let first = handle();
    assert!(first.is_some());
    assert_eq!(handle(), first);
    namespace.sh("nft flush ruleset");
    assert_eq!(handle(), None);
    rebuild();
    assert!(handle().is_some() && handle() != first);
}

#[test]
fn clients_stick_to_their_endpoint_when_everything_is_made_anew() {
    let Some(namespace) = Namespace::new() else { return };
    let mut table = Table::new(Family::V4);
    let both = ["10.231.1.2", "10.231.1.3"];
    let _ = table.replace(vec![(owner(), Some(web(&both, true)))]);
    let base = || base::commands(Family::V4, &node(), &settings(), &[]);
    let keep = |table: &Table| {
        inside(&namespace, || {
            kernel::keep_clients(Family::V4, &table.client_sets()).unwrap()
        })
    };
    assert_eq!(keep(&table), vec![], "no table yet");
    namespace.nft(Family::V4, &table.rebuild(base()));
    assert_eq!(keep(&table), vec![], "no client yet");
    let servers = ["10.231.1.2:8080", "10.231.1.3:8080"];
    let first = namespace.ask(&servers, "10.232.0.5:80");
    assert_eq!(first.len(), 1, "{first:?}");
    let kept = keep(&table);
    assert!(
        matches!(kept.as_slice(), [Command::AddClient(_, _, left)] if (10_000..=10_800).contains(left)),
        "{kept:?}"
    );
    for _ in 0..4 {
        let mut commands = table.rebuild(base());
        commands.extend(keep(&table));
        namespace.nft(Family::V4, &commands);
        assert_eq!(namespace.ask(&servers, "10.232.0.5:80"), first);
    }
}

/// The table's blocks, sorted: chains come in the order in which they were made.
fn blocks(text: &str) -> Vec<String> {
    let body = text.split_once('\n').map(|(_, rest)| rest).unwrap_or_default();
    let mut blocks: Vec<String> = body
        .split("\n\n")
        .map(|b| b.trim_end_matches(['}', '\n']).to_owned())
        .collect();
    blocks.sort();
    blocks
}

#[test]
fn messages_leave_the_kernel_as_nft_would() {
    let (Some(by_messages), Some(by_nft)) = (Namespace::new(), Namespace::new()) else {
        return;
    };
    for family in [Family::V4, Family::V6] {
        let address = |v4: &str, v6: &str| {
            if family == Family::V4 {
                v4.to_owned()
            } else {
                v6.to_owned()
            }
        };
        let mut node = node();
        node.addresses.push("fd00::11".parse().unwrap());
        let change = |endpoints: &[usize], kind: &str| {
            let spec = json!({"type": kind, "clusterIP": address("10.232.0.5", "fd01::5"), "ports": [
                {"name": "t", "port": 80, "protocol": "TCP", "nodePort": 30080}, {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053},
                {"name": "s", "port": 99, "protocol": "SCTP", "nodePort": 30099}]});
            let targets: Vec<String> = endpoints
                .iter()
                .map(|e| address(&format!("10.231.1.{e}"), &format!("fd02::{e}")))
                .collect();
            let endpoints: Vec<_> = targets
                .iter()
                .map(|t| (t.as_str(), "node-1", true, true, false))
                .collect();
            let slices: Vec<_> = [("t", "TCP"), ("u", "UDP"), ("s", "SCTP")]
                .map(|(name, protocol)| {
                    let mut slice = slice(
                        "web",
                        json!({"name": name, "port": 8080, "protocol": protocol}),
                        &endpoints,
                    );
                    std::sync::Arc::make_mut(&mut slice).address_type = family.slice_type().into();
                    slice
                })
                .to_vec();
            fragment(&service("web", spec), &slices, family, &node, &settings())
        };
        let mut table = Table::new(family);
        let start = table.rebuild(base::commands(family, &node, &settings(), &ranges()));
        by_messages.nft(family, &start);
        by_nft.nft(family, &start);
        let send = |commands: &[Command]| {
            by_nft.nft(family, commands);
            let bytes = batch::encode(family, commands);
            let Some(bytes) = bytes else {
                return by_messages.nft(family, commands);
            };
            inside(&by_messages, || batch::run(&bytes)).unwrap();
        };
        let many: Vec<usize> = (1..60).collect();
        let steps: [(&[usize], &str); 7] = [
            (&[1], "ClusterIP"),
            (&[1, 2], "ClusterIP"),
            (&many, "NodePort"),
            (&[], "NodePort"),
            (&[2, 3], "NodePort"),
            (&[3], "ClusterIP"),
            (&[], "ClusterIP"),
        ];
        for (endpoints, kind) in steps {
            let transaction = table.replace(vec![(owner(), Some(change(endpoints, kind)))]);
            assert!(
                batch::encode(family, &transaction.apply).is_some(),
                "{:?}",
                transaction.apply
            );
            send(&transaction.apply);
            if !transaction.cleanup.is_empty() {
                assert!(
                    batch::encode(family, &transaction.cleanup).is_some(),
                    "{:?}",
                    transaction.cleanup
                );
                send(&transaction.cleanup);
            }
            table.cleaned();
            assert_eq!(
                blocks(&by_messages.listing(family)),
                blocks(&by_nft.listing(family)),
                "{endpoints:?} {kind}"
            );
        }
        // What the kernel refuses changes nothing.
        let wrong = [
            Command::AddChain("good".into(), ""),
            Command::FlushChain("nowhere".into()),
        ];
        let before = by_messages.listing(family);
        let bytes = batch::encode(family, &wrong).unwrap();
        assert!(inside(&by_messages, || batch::run(&bytes)).is_err());
        assert_eq!(by_messages.listing(family), before);
    }
}

/// Not a test but a measurement: `cargo nextest run --release -p steersman-proxy --run-ignored only --no-capture`.
#[test]
#[ignore = "a measurement"]
fn how_long_a_quarter_of_a_million_endpoints_take() {
    let Some(namespace) = Namespace::new() else { return };
    let (services, endpoints) = (5_000u32, 50u32);
    let build = |i: u32, endpoints: u32| {
        let name = format!("s{i}");
        let service = service(
            &name,
            json!({"clusterIP": format!("10.232.{}.{}", i / 250, i % 250), "ports": [{"port": 80, "protocol": "TCP"}]}),
        );
        let addresses: Vec<String> = (0..endpoints)
            .map(|e| format!("10.{}.{}.{}", 100 + i / 250, i % 250, e))
            .collect();
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|a| (a.as_str(), "node-2", true, true, false))
            .collect();
        let slices = [slice(
            &name,
            json!({"name": "", "port": 8080, "protocol": "TCP"}),
            &endpoints,
        )];
        (
            ("ns".to_owned(), name),
            Some(fragment(&service, &slices, Family::V4, &node(), &settings())),
        )
    };
    let changes: Vec<_> = (0..services).map(|i| build(i, endpoints)).collect();
    let mut table = Table::new(Family::V4);
    let started = std::time::Instant::now();
    let _ = table.replace(changes);
    namespace.nft(
        Family::V4,
        &table.rebuild(base::commands(Family::V4, &node(), &settings(), &[])),
    );
    eprintln!(
        "{} endpoints from nothing: {:?}",
        services * endpoints,
        started.elapsed()
    );
    for round in 1..=3 {
        let change = build(7, endpoints - round);
        let started = std::time::Instant::now();
        let transaction = table.replace(vec![change]);
        namespace.nft(Family::V4, &transaction.apply);
        eprintln!("one endpoint less, by nft: {:?}", started.elapsed());
    }
    for round in 4..=6 {
        let change = build(7, endpoints - round);
        let started = std::time::Instant::now();
        let bytes = batch::encode(Family::V4, &table.replace(vec![change]).apply).unwrap();
        inside(&namespace, || batch::run(&bytes)).unwrap();
        eprintln!("one endpoint less, by messages: {:?}", started.elapsed());
    }
}
