//! Asks a URL for static pods (`--manifest-url`), and tells the node's pods what it says.
//!
//! Every `httpCheckFrequency`; an answer of the same bytes as before changes nothing. What stays true: as long as there
//! is no answer that can be used, the pods of the last one go on. An answer of no bytes says that there are none, and
//! counts as a failure all the same, as upstream has it. What it does not do: proxies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use steersman_types::api::core::v1::Pod;
use steersman_types::jiff::Timestamp;

use super::{Mirrors, manifest};
use crate::pod;
use crate::pods::Pods;
use crate::probes::http::{Answer, Get, fetch};

/// For the answer as a whole, redirects included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Upstream's `maxConfigLength`.
const MAX_BYTES: usize = 10 << 20;
const MAX_REDIRECTS: usize = 10;
/// Failures in a row that are worth a line each.
const LOUD: usize = 3;
/// Between two questions, when nothing sensible is configured.
const USUAL: Duration = Duration::from_secs(20);
/// New versions wait for the end of those before, which is looked for so often.
const LOOK: Duration = Duration::from_secs(1);
/// Where systems keep the certificates of those whom everybody trusts, as Go's programs look for them.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// One URL and what it said last.
pub struct Source {
    url: String,
    get: Get,
    /// The last answer that could be read, and whether it was one about pods.
    last: String,
    good: bool,
    /// Of the last good one.
    pods: Vec<Arc<Pod>>,
}

impl Source {
    /// # Errors
    /// When the URL is none of HTTP.
    pub fn new(url: &str, headers: &BTreeMap<String, Vec<String>>) -> Result<Self, String> {
        let mut get = target(url)?;
        let pairs = headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())));
        get.headers.extend(pairs);
        if !headers.keys().any(|name| name.eq_ignore_ascii_case("user-agent")) {
            get.headers.push(("User-Agent".into(), "Go-http-client/1.1".into()));
        }
        Ok(Self {
            url: url.to_owned(),
            get,
            last: String::new(),
            good: false,
            pods: Vec::new(),
        })
    }

    /// Asks forever. `mirrors` is told when there was an answer for the first time.
    pub async fn run(mut self, node: String, every: Duration, pods: Arc<Pods>, mirrors: Arc<Mirrors>) {
        tracing::info!(url = self.url, "Adding pod URL with HTTP header");
        let every = if every.is_zero() { USUAL } else { every };
        let mut failures = 0;
        loop {
            let asked = tokio::time::Instant::now();
            let (answered, result) = self.look(&node).await;
            if answered {
                mirrors.read();
            }
            match result {
                Ok(()) if failures > 0 => {
                    tracing::info!("Successfully read pods from URL");
                    failures = 0;
                }
                Ok(()) => {}
                Err(error) => {
                    match failures {
                        0..LOUD => tracing::info!(error, "Failed to read pods from URL"),
                        LOUD => tracing::info!(
                            error,
                            "Failed to read pods from URL. Dropping verbosity of this message to V(4)"
                        ),
                        _ => tracing::debug!(error, "Failed to read pods from URL"),
                    }
                    failures += 1;
                }
            }
            while !mirrors.unread() {
                pods.set_static(pod::HTTP, &self.pods);
                if asked.elapsed() + LOOK >= every {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
            tokio::time::sleep_until(asked + every).await;
        }
    }

    /// Asks once. Tells whether there was an answer that says which pods there are.
    async fn look(&mut self, node: &str) -> (bool, Result<(), String>) {
        let answer = tokio::time::timeout(TIMEOUT, followed(self.get.clone())).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(format!(
                "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                self.url
            ))
        });
        let text = match answer {
            Err(error) => return (false, Err(error)),
            Ok(answer) if !answer.complete => return (false, Err("the read limit is reached".into())),
            Ok(answer) if answer.status != 200 => return (false, Err(status(&self.url, answer.status))),
            Ok(answer) => answer.body,
        };
        if text.is_empty() {
            self.last.clear();
            self.pods.clear();
            return (true, Err(format!("zero-length data received from {}", self.url)));
        }
        if text == self.last {
            return (self.good, Ok(()));
        }
        let parsed = manifest::parse_all(&text, &self.url, node, Timestamp::now());
        self.last = text;
        self.good = parsed.is_ok();
        match parsed {
            Ok(pods) => {
                self.take(pods);
                (true, Ok(()))
            }
            Err(error) => (false, Err(error)),
        }
    }

    /// One that is known already stays the same object; of two with one name the first counts.
    fn take(&mut self, pods: Vec<Pod>) {
        let mut all: Vec<Arc<Pod>> = Vec::new();
        for new in pods {
            if all
                .iter()
                .any(|p| pod::name(p) == pod::name(&new) && pod::namespace(p) == pod::namespace(&new))
            {
                tracing::error!(
                    url = self.url,
                    pod = pod::name(&new),
                    "Another pod of the URL has this name"
                );
                continue;
            }
            let before = self.pods.iter().find(|p| pod::uid(p) == pod::uid(&new));
            all.push(before.cloned().unwrap_or_else(|| Arc::new(new)));
        }
        self.pods = all;
    }
}

/// Go's words: the URL and the status line's.
fn status(url: &str, code: u16) -> String {
    let reason = http::StatusCode::from_u16(code)
        .ok()
        .and_then(|c| c.canonical_reason())
        .unwrap_or_default();
    format!("{url}: {code} {reason}")
}

fn target(url: &str) -> Result<Get, String> {
    let bad = |why: &str| format!("invalid manifest URL {url:?}: {why}");
    let uri: hyper::Uri = url.parse().map_err(|e: http::uri::InvalidUri| bad(&e.to_string()))?;
    let https = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        other => {
            return Err(bad(&format!(
                "unsupported protocol scheme {:?}",
                other.unwrap_or_default()
            )));
        }
    };
    let host = uri
        .host()
        .filter(|h| !h.is_empty())
        .ok_or_else(|| bad("no Host in request URL"))?;
    Ok(Get {
        https,
        // An address of IPv6 stands in brackets.
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: uri.port_u16().unwrap_or(if https { 443 } else { 80 }),
        path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        headers: Vec::new(),
    })
}

/// The answer at the end of all redirects.
async fn followed(mut get: Get) -> Result<Answer, String> {
    for _ in 0..MAX_REDIRECTS {
        let trusted = get.https.then(trusted);
        let answer = fetch(&get, MAX_BYTES, trusted).await?;
        let next = match (answer.status, &answer.location) {
            (301 | 302 | 303 | 307 | 308, Some(next)) => next.clone(),
            _ => return Ok(answer),
        };
        if next.starts_with('/') && !next.starts_with("//") {
            get.path = next;
            continue;
        }
        let mut next = target(&next)?;
        // What may be a secret is for the host that was named.
        let secret = |name: &str| ["authorization", "cookie", "www-authenticate"].contains(&name);
        let same = next.host == get.host;
        let headers = get.headers.into_iter();
        next.headers = headers.filter(|(n, _)| same || !secret(&n.to_lowercase())).collect();
        get = next;
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

fn trusted() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let own = std::env::var("SSL_CERT_FILE").ok().filter(|f| !f.is_empty());
    let mut files = own.into_iter().chain(BUNDLES.into_iter().map(str::to_owned));
    if let Some(found) = files.find_map(|f| CertificateDer::pem_file_iter(f).ok()) {
        roots.add_parsable_certificates(found.flatten());
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Gives each connection the next answer: status, further headers, body. What was asked is sent on.
    async fn server(
        answers: Vec<(&'static str, String, String)>,
    ) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/pods?x=1", listener.local_addr().unwrap());
        let (asked, requests) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            for (status, headers, body) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = String::new();
                while !request.contains("\r\n\r\n") {
                    let mut buffer = [0; 4096];
                    let n = stream.read(&mut buffer).await.unwrap();
                    request.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
                }
                asked.send(request).unwrap();
                let answer = format!(
                    "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (url, requests)
    }

    fn one(name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: i}}]}}\n"
        )
    }

    fn names(source: &Source) -> Vec<&str> {
        source.pods.iter().map(|p| pod::name(p)).collect()
    }

    #[tokio::test]
    async fn pods_of_the_last_good_answer_go_on_until_there_is_another() {
        let ok = |body: String| ("200 OK", String::new(), body);
        let (url, mut requests) = server(vec![
            ("404 Not Found", String::new(), String::new()),
            ok(one("a")),
            ok(one("a")),
            ("500 Internal Server Error", String::new(), one("b")),
            ok("nonsense".into()),
            ok("nonsense".into()),
            ("302 Found", "Location: /other\r\n".into(), String::new()),
            ok(one("b")),
            ok(String::new()),
        ])
        .await;
        let headers = BTreeMap::from([("X-Key".to_owned(), vec!["1".to_owned(), "2".to_owned()])]);
        let mut source = Source::new(&url, &headers).unwrap();
        let (seen, result) = source.look("n").await;
        assert_eq!((seen, result), (false, Err(format!("{url}: 404 Not Found"))));
        let request = requests.recv().await.unwrap().to_lowercase();
        assert!(request.starts_with("get /pods?x=1 http/1.1\r\n"), "{request}");
        assert!(request.contains("x-key: 1\r\nx-key: 2\r\n"), "{request}");
        assert!(request.contains("user-agent: go-http-client/1.1\r\n"), "{request}");

        assert_eq!(source.look("n").await, (true, Ok(())));
        assert_eq!(names(&source), ["a-n"]);
        let first = source.pods[0].clone();
        assert_eq!(source.look("n").await, (true, Ok(())));
        assert!(Arc::ptr_eq(&first, &source.pods[0]));
        let (_, result) = source.look("n").await;
        assert_eq!(result, Err(format!("{url}: 500 Internal Server Error")));
        let (_, result) = source.look("n").await;
        assert!(result.unwrap_err().contains("couldn't parse as single"));
        assert_eq!(source.look("n").await, (false, Ok(())), "reported once");
        assert_eq!(names(&source), ["a-n"]);

        assert_eq!(source.look("n").await, (true, Ok(())), "redirects are followed");
        assert_eq!(names(&source), ["b-n"]);
        let (seen, result) = source.look("n").await;
        assert_eq!(result, Err(format!("zero-length data received from {url}")));
        assert!(seen && source.pods.is_empty());
        let (seen, result) = source.look("n").await;
        assert!(!seen && result.is_err(), "nobody answers any more");
    }

    #[test]
    fn only_urls_of_http_are_taken() {
        let target = |url: &str| target(url).map(|g| (g.https, g.host, g.port, g.path));
        assert_eq!(
            target("http://127.0.0.1"),
            Ok((false, "127.0.0.1".into(), 80, "/".into()))
        );
        assert_eq!(
            target("https://[::1]:8443/a?b"),
            Ok((true, "::1".into(), 8443, "/a?b".into()))
        );
        for url in ["", "/etc/pods", "ftp://127.0.0.1/x"] {
            assert!(target(url).unwrap_err().contains("invalid manifest URL"), "{url}");
        }
    }
}
