//! A pull-only image registry over plain HTTP, for nodes that reach no other: serves the image layouts that `hack/images`
//! makes (see `hack/lib/oci.sh`) by the OCI distribution protocol.
//!
//! `registry IP:PORT FOLDER...`. Each folder's `names` file, a line `NAME DIGEST [CREDENTIALS]` per image, is read for
//! every request, so images that were made later are served at once. containerd says with `?ns=HOST` which registry it
//! means; without that it is the `Host` header's. An image with credentials (base64 of `user:password`) is given only to
//! who shows them. It never writes, and a client that stalls or sends nonsense loses its connection.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const MOST_CONNECTIONS: usize = 200;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(address) = arguments.next() else {
        fail("usage: registry IP:PORT FOLDER...")
    };
    let folders: &'static [PathBuf] = Vec::leak(arguments.map(PathBuf::from).collect());
    let listener = TcpListener::bind(&address).unwrap_or_else(|e| fail(&format!("{address}: {e}")));
    println!("registry: listening on {address}");
    for stream in listener.incoming().flatten() {
        if CONNECTIONS.fetch_add(1, Ordering::Relaxed) < MOST_CONNECTIONS {
            std::thread::spawn(move || {
                serve(&stream, folders);
                CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
            });
        } else {
            CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn fail(why: &str) -> ! {
    eprintln!("registry: {why}");
    std::process::exit(2)
}

/// What of a request matters.
struct Request {
    head: bool,
    path: String,
    registry: String,
    credentials: Option<String>,
}

enum Answer {
    File(File, &'static str, String),
    Text(&'static str, &'static str),
}

/// Requests of one connection, one after the other.
fn serve(stream: &TcpStream, folders: &[PathBuf]) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let _ = stream.set_write_timeout(Some(Duration::from_secs(60)));
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        let answer = answer(&request, folders);
        let status = match &answer {
            Answer::File(..) => "200 OK",
            Answer::Text(status, _) => status,
        };
        println!(
            "{} {} {} {status}",
            if request.head { "HEAD" } else { "GET" },
            request.registry,
            request.path
        );
        if send(stream, request.head, answer).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut reader = reader.take(16 << 10);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let head = match words.next()? {
        "GET" => false,
        "HEAD" => true,
        _ => return None,
    };
    let target = words.next()?.to_owned();
    let (mut host, mut credentials) = (String::new(), None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "host" => host = value.trim().to_owned(),
            "authorization" => credentials = value.trim().strip_prefix("Basic ").map(str::to_owned),
            _ => {}
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let meant = query.split('&').find_map(|part| part.strip_prefix("ns="));
    Some(Request {
        head,
        path: path.to_owned(),
        registry: meant.map_or(host, str::to_owned),
        credentials,
    })
}

/// The images of a folder: name without tag, tag, digest, credentials.
fn images(folder: &PathBuf) -> Vec<(String, String, String, Option<String>)> {
    let text = std::fs::read_to_string(folder.join("names")).unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (name, digest) = (words.next()?, words.next()?);
        let (repository, tag) = name.rsplit_once(':')?;
        Some((repository.to_owned(), tag.to_owned(), digest, words.next()))
    };
    text.lines().filter_map(parse).collect()
}

fn answer(request: &Request, folders: &[PathBuf]) -> Answer {
    const UNKNOWN: Answer = Answer::Text(
        "404 Not Found",
        r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
    );
    let Some(path) = request.path.strip_prefix("/v2") else {
        return Answer::Text("404 Not Found", "{}");
    };
    if path.is_empty() || path == "/" {
        return Answer::Text("200 OK", "{}");
    }
    let mut parts = path.rsplitn(3, '/');
    let (Some(reference), Some(kind), Some(repository)) = (parts.next(), parts.next(), parts.next()) else {
        return UNKNOWN;
    };
    let repository = format!("{}{repository}", request.registry);
    let mut refused = false;
    for folder in folders {
        for (name, tag, digest, credentials) in images(folder) {
            if name != repository || (kind == "manifests" && reference != tag && reference != digest) {
                continue;
            }
            if credentials.is_some() && credentials != request.credentials {
                refused = true;
                continue;
            }
            let (digest, media) = if kind == "manifests" {
                (digest.as_str(), MANIFEST)
            } else {
                (reference, "application/octet-stream")
            };
            if let Some(file) = blob(folder, digest) {
                return Answer::File(file, media, digest.to_owned());
            }
        }
    }
    if refused {
        return Answer::Text(
            "401 Unauthorized",
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
        );
    }
    UNKNOWN
}

/// The digest comes from outside: it must be one before it becomes part of a path.
fn blob(folder: &PathBuf, digest: &str) -> Option<File> {
    let hex = digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_hexdigit()))?;
    File::open(folder.join("blobs/sha256").join(hex)).ok()
}

fn send(mut stream: &TcpStream, head: bool, answer: Answer) -> std::io::Result<()> {
    match answer {
        Answer::File(mut file, media, digest) => {
            let size = file.metadata()?.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {size}\r\nDocker-Content-Digest: {digest}\r\n\r\n"
            )?;
            if !head {
                std::io::copy(&mut file, &mut stream)?;
            }
        }
        Answer::Text(status, body) => {
            let challenge = if status.starts_with("401") {
                "WWW-Authenticate: Basic realm=\"registry\"\r\n"
            } else {
                ""
            };
            let length = body.len();
            let body = if head { "" } else { body };
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{challenge}Content-Length: {length}\r\n\r\n{body}"
            )?;
        }
    }
    stream.flush()
}
