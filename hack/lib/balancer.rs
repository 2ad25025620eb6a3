//! A TCP balancer in front of several API servers, as whoever runs several has one: the death of a server is nobody's.
//!
//! `balancer LISTEN,... CA_FILE SERVER...`, all of them `IP:PORT`. TLS goes through, so clients authenticate to the servers
//! themselves. New connections go to the ready servers in turn; one that cannot be reached is passed over at once. Every
//! second each server is asked for `/readyz` (by curl): one that is not ready gets no new connections, and one that does
//! not even answer, twice in a row, loses those that it has, so that their clients go to another. With no ready server
//! every server is tried. Single file, std only: `hack/up` compiles it when it is needed.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Connections at a time; more are refused.
const MOST: usize = 2000;
const CONNECT: Duration = Duration::from_secs(2);
const BETWEEN: Duration = Duration::from_secs(1);
/// curl's exit status when its time is over.
const NO_ANSWER: i32 = 28;

struct Server {
    address: SocketAddr,
    ready: AtomicBool,
    /// Both ends of its connections; dead ones are dropped when others come.
    open: Mutex<Vec<Arc<Pair>>>,
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
    ended: AtomicBool,
}

impl Pair {
    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        // Already closed is as good.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

static OPEN: AtomicUsize = AtomicUsize::new(0);
static TURN: AtomicUsize = AtomicUsize::new(0);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, ca, servers @ ..] = arguments.as_slice() else {
        fail("usage: balancer LISTEN,... CA_FILE SERVER...")
    };
    let server = |text: &String| Server {
        address: text.parse().unwrap_or_else(|e| fail(&format!("{text}: {e}"))),
        ready: AtomicBool::new(true),
        open: Mutex::default(),
    };
    let servers: &'static [Server] = Vec::leak(servers.iter().map(server).collect());
    if servers.is_empty() {
        fail("no server to balance over");
    }
    for server in servers {
        let ca = ca.clone();
        std::thread::spawn(move || watch(server, &ca));
    }
    let listening: Vec<_> = listen
        .split(',')
        .map(|address| {
            let listener = TcpListener::bind(address).unwrap_or_else(|e| fail(&format!("{address}: {e}")));
            std::thread::spawn(move || accept(&listener, servers))
        })
        .collect();
    for thread in listening {
        let _ = thread.join();
    }
}

fn fail(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(1)
}

/// Asks a server again and again whether it is ready.
fn watch(server: &Server, ca: &str) {
    let mut silent = 0;
    loop {
        let asked = Command::new("curl")
            .args(["-sf", "-o", "/dev/null", "--max-time", "2", "--cacert", ca])
            .arg(format!("https://{}/readyz", server.address))
            .stderr(Stdio::null())
            .status();
        let code = asked.ok().and_then(|status| status.code());
        let ready = code == Some(0);
        if server.ready.swap(ready, Ordering::Relaxed) != ready {
            println!("{} is {}", server.address, if ready { "ready" } else { "not ready" });
        }
        silent = if code == Some(NO_ANSWER) { silent + 1 } else { 0 };
        if silent >= 2 {
            let open = std::mem::take(&mut *server.open.lock().unwrap_or_else(PoisonError::into_inner));
            open.iter().for_each(|pair| pair.end());
        }
        std::thread::sleep(BETWEEN);
    }
}

fn accept(listener: &TcpListener, servers: &'static [Server]) {
    for client in listener.incoming().flatten() {
        if OPEN.load(Ordering::Relaxed) >= MOST {
            continue;
        }
        OPEN.fetch_add(1, Ordering::Relaxed);
        let carried = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
            if let Some((server, stream)) = connect(servers) {
                // A client that is gone already is no news.
                let _ = join(client, stream, server);
            }
            OPEN.fetch_sub(1, Ordering::Relaxed);
        });
        if carried.is_err() {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The next server that takes a connection: ready ones first.
fn connect(servers: &'static [Server]) -> Option<(&'static Server, TcpStream)> {
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    let in_turn = || (0..servers.len()).filter_map(move |i| servers.get((turn + i) % servers.len()));
    let (ready, others): (Vec<_>, Vec<_>) = in_turn().partition(|s| s.ready.load(Ordering::Relaxed));
    ready.into_iter().chain(others).find_map(|server| {
        let stream = TcpStream::connect_timeout(&server.address, CONNECT).ok()?;
        Some((server, stream))
    })
}

/// Carries bytes both ways until both sides have ended.
fn join(client: TcpStream, stream: TcpStream, server: &Server) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    stream.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, stream.try_clone()?);
    let (mut from_server, mut to_client) = (stream.try_clone()?, client.try_clone()?);
    let pair = Arc::new(Pair {
        client,
        server: stream,
        ended: AtomicBool::new(false),
    });
    {
        let mut open = server.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|pair| !pair.ended.load(Ordering::Relaxed));
        open.push(pair.clone());
    }
    let there = std::thread::Builder::new()
        .stack_size(128 << 10)
        .spawn(move || carry(&mut from_client, &mut to_server))?;
    carry(&mut from_server, &mut to_client);
    let _ = there.join();
    pair.end();
    Ok(())
}

fn carry(from: &mut TcpStream, to: &mut TcpStream) {
    let mut buffer = [0; 32 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Nothing more comes this way; the other way may go on.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
