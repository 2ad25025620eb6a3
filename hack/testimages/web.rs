//! A small web server for test images: says which version it is and where it runs.
//!
//! `web [--version=V] [--port=N]...` (default port 8080). Requests are answered one per connection:
//!
//! | path | answer |
//! |---|---|
//! | `/exit/N` | none: the process ends with status N |
//! | `/healthz` | 200 `ok`, or 503 after `/unhealthy` |
//! | `/unhealthy`, `/healthy` | switch what `/healthz` says |
//! | `/env/NAME` | the variable's value, or 404 |
//! | `/client` | the address that the connection came from |
//! | `/udp/ADDRESS:PORT` | what that answers to a UDP packet, which always comes from the same port; 504 if nothing |
//! | anything else | `HOSTNAME version V` |
//!
//! UDP packets to the same ports are answered with `HOSTNAME version V`. Both IPv4 and IPv6, if there is any.
//!
//! Each request is one line on standard output. SIGTERM ends it at once, also as process 1 of its namespace, where
//! signals without a handler are ignored.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

static HEALTHY: AtomicBool = AtomicBool::new(true);

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(status: i32) -> !;
}

extern "C" fn leave(_: i32) {
    // SAFETY: _exit may be called from a signal handler.
    unsafe { _exit(0) }
}

fn main() {
    let (mut version, mut ports) = (String::from("0"), Vec::new());
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("--version", value)) => version = value.to_owned(),
            Some(("--port", value)) => match value.parse() {
                Ok(port) => ports.push(port),
                Err(_) => fail(&format!("--port: {value} is no port")),
            },
            _ => fail(&format!("unknown argument {argument}")),
        }
    }
    if ports.is_empty() {
        ports.push(8080u16);
    }
    for number in [2, 15] {
        // SAFETY: the handler does nothing but leave.
        unsafe { signal(number, leave) };
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    println!("{host} version {version} listens on {ports:?}");
    let servers: Vec<_> = ports
        .into_iter()
        .map(|port| {
            let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
            let listener = listener.unwrap_or_else(|e| fail(&format!("port {port}: {e}")));
            let text = format!("{host} version {version}\n");
            if let Ok(socket) = udp(port) {
                let text = text.clone();
                std::thread::spawn(move || answer_packets(&socket, &text));
            }
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let text = text.clone();
                    std::thread::spawn(move || serve(stream, &text));
                }
            })
        })
        .collect();
    for server in servers {
        let _ = server.join();
    }
}

fn fail(why: &str) -> ! {
    eprintln!("web: {why}");
    std::process::exit(2)
}

fn udp(port: u16) -> std::io::Result<UdpSocket> {
    UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)))
}

fn answer_packets(socket: &UdpSocket, text: &str) {
    let mut buffer = [0; 64];
    loop {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(text.as_bytes(), peer);
        }
    }
}

/// One packet to `address`, from the one socket that this process has for it.
fn ask_by_udp(address: &str) -> Option<String> {
    static SOCKET: OnceLock<Mutex<UdpSocket>> = OnceLock::new();
    let socket = SOCKET.get_or_init(|| Mutex::new(udp(0).unwrap_or_else(|e| fail(&format!("UDP: {e}")))));
    let socket = socket.lock().ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    // A dual socket wants IPv4 addresses as IPv6 writes them.
    let address: std::net::SocketAddr = address.parse().ok()?;
    let address = match (socket.local_addr().ok()?.is_ipv6(), address.ip()) {
        (true, std::net::IpAddr::V4(ip)) => (ip.to_ipv6_mapped(), address.port()).into(),
        _ => address,
    };
    socket.send_to(b"?", address).ok()?;
    let mut buffer = [0; 512];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A client that stalls or sends nonsense loses its connection; nothing else happens.
fn serve(stream: TcpStream, hello: &str) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let Ok(peer) = stream.peer_addr() else { return };
    let mut reader = BufReader::new(&stream).take(16 << 10);
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
    let mut header = String::new();
    while reader.read_line(&mut header).is_ok_and(|n| n > 2) {
        header.clear();
    }
    println!("{peer} {}", line.trim_end());
    let (status, body) = match path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), "")) {
        ("exit", code) => std::process::exit(code.parse().unwrap_or(1)),
        ("healthz", _) if HEALTHY.load(Ordering::Relaxed) => ("200 OK", "ok\n".to_owned()),
        ("healthz", _) => ("503 Service Unavailable", "unhealthy\n".to_owned()),
        (switch @ ("healthy" | "unhealthy"), _) => {
            HEALTHY.store(switch == "healthy", Ordering::Relaxed);
            ("200 OK", format!("{switch}\n"))
        }
        ("env", name) => match std::env::var(name) {
            Ok(value) => ("200 OK", format!("{value}\n")),
            Err(_) => ("404 Not Found", String::new()),
        },
        ("client", _) => ("200 OK", format!("{}\n", peer.ip().to_canonical())),
        ("udp", address) => match ask_by_udp(address) {
            Some(text) => ("200 OK", text),
            None => ("504 Gateway Timeout", String::new()),
        },
        _ => ("200 OK", hello.to_owned()),
    };
    let _ = write!(
        &stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}
