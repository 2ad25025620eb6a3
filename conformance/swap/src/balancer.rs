//! A TCP balancer in front of two API servers: every new connection goes to the other one than the last.
//!
//! It knows no HTTP: TLS goes through, so that clients authenticate to the servers themselves. One that cannot be
//! reached is passed over. It lives as long as the process.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Connections at a time; more wait to be accepted.
const MOST: usize = 512;
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Listens on a free port of the loopback address and spreads over `servers` (`host:port`); returns the port.
///
/// # Errors
/// No port can be had.
pub fn start(servers: Vec<String>) -> std::io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for (turn, client) in listener.incoming().flatten().enumerate() {
            while OPEN.load(Ordering::Relaxed) >= MOST {
                std::thread::sleep(Duration::from_millis(10));
            }
            let order: Vec<String> = (0..servers.len())
                .filter_map(|i| servers.get((turn + i) % servers.len()).cloned())
                .collect();
            OPEN.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                if let Some(server) = order.iter().find_map(|s| TcpStream::connect(s).ok()) {
                    let _ = join(&client, &server);
                }
                OPEN.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Ok(port)
}

/// Carries bytes both ways until both sides have ended.
fn join(client: &TcpStream, server: &TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let there = std::thread::spawn(move || carry(&mut from_client, &mut to_server));
    carry(&mut server.try_clone()?, &mut client.try_clone()?);
    let _ = there.join();
    Ok(())
}

fn carry(from: &mut TcpStream, to: &mut TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(buffer.get(..count).unwrap_or_default()).is_err() {
            break;
        }
    }
    // Nothing more comes this way; the other way may go on.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_alternate_and_pass_over_what_is_down() {
        let serve = |answer: &'static [u8]| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address").to_string();
            std::thread::spawn(move || {
                for mut c in listener.incoming().flatten() {
                    let _ = c.write_all(answer);
                }
            });
            address
        };
        let down = TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("an address")
            .to_string();
        let port = start(vec![serve(b"a"), down, serve(b"b")]).expect("a balancer");
        let said: String = (0..6)
            .map(|_| {
                let mut text = String::new();
                let mut c = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
                let _ = c.read_to_string(&mut text);
                text
            })
            .collect();
        assert_eq!(said.len(), 6, "{said}");
        assert!(said.contains('a') && said.contains('b'), "{said}");
    }
}
