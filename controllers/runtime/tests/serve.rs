//! A component's port over real TLS: what is open, what needs a certificate, what a shutdown does.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use clap::Parser;
use http::{Request, Response, StatusCode};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use steersman_runtime::Client;
use steersman_runtime::client::{BodyStream, BoxFuture, Transport, TransportError};
use steersman_runtime::flags::ServingFlags;
use steersman_runtime::metrics::Metrics;
use steersman_runtime::pki;
use steersman_runtime::serve::{ComponentServer, Gate, tls::Serving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// An API server that reviews: the token `good` is alice, and alice may read metrics and single checks.
struct Reviewer;

impl Transport for Reviewer {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<BodyStream>, TransportError>> {
        Box::pin(async move {
            let body: serde_json::Value = serde_json::from_slice(request.body())?;
            let answer = if request.uri().path().ends_with("tokenreviews") {
                let good = body["spec"]["token"] == "good";
                serde_json::json!({"status": {"authenticated": good, "user": {"username": "alice", "groups": ["g"]}}})
            } else {
                let wanted = &body["spec"]["nonResourceAttributes"];
                let path = wanted["path"].as_str().unwrap_or_default();
                let allowed = body["spec"]["user"] == "alice"
                    && wanted["verb"] == "get"
                    && (path == "/metrics" || path.starts_with("/livez/"));
                serde_json::json!({"status": {"allowed": allowed}})
            };
            let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from(answer.to_string()))]));
            Ok(Response::new(body))
        })
    }
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    serving: ServingFlags,
}

struct Served {
    address: SocketAddr,
    root: CertificateDer<'static>,
    stop: CancellationToken,
}

async fn serve(client_ca: Option<&std::path::Path>) -> Served {
    let mut flags = Flags::parse_from(["test"]).serving;
    flags.client_ca_file = client_ca.map(Into::into);
    let client = || Client::new(Arc::new(Reviewer), "test");
    let gate = Gate::new(&flags, Some(client()), Some(client()), client()).unwrap();
    let server = ComponentServer::new(Metrics::new(), gate);
    server.check("broken", || Err("secret".into()));
    let certificate = Serving::self_signed(None, "test").unwrap();
    let root = CertificateDer::from_pem_slice(&certificate.certificate).unwrap();
    let stop = CancellationToken::new();
    let address = server
        .start("127.0.0.1:0".parse().unwrap(), &certificate, stop.clone())
        .await
        .unwrap();
    Served { address, root, stop }
}

async fn get(served: &Served, path: &str, header: &str, identity: Option<(String, String)>) -> (u16, String) {
    let mut roots = RootCertStore::empty();
    roots.add(served.root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                .unwrap()
        }
    };
    let stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let code = text.split(' ').nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
    (
        code,
        text.split_once("\r\n\r\n")
            .map(|(_, b)| b.to_owned())
            .unwrap_or_default(),
    )
}

const OK: u16 = StatusCode::OK.as_u16();

#[tokio::test]
async fn health_is_open_and_a_failing_check_does_not_tell_why() {
    let served = serve(None).await;
    let alice = "Authorization: Bearer good\r\n";
    assert_eq!(
        get(&served, "/livez/ping", "", None).await.0,
        403,
        "single checks are not open, as upstream"
    );
    assert_eq!(get(&served, "/livez/ping", alice, None).await, (OK, "ok".into()));
    let (code, body) = get(&served, "/healthz", "", None).await;
    assert_eq!(code, 500);
    assert!(
        body.contains("[-]broken failed: reason withheld") && !body.contains("secret"),
        "{body}"
    );
    let (code, body) = get(&served, "/readyz?verbose&exclude=broken", "", None).await;
    assert_eq!(code, OK);
    assert!(body.ends_with("readyz check passed\n"));
    assert_eq!(get(&served, "/livez/nope", alice, None).await.0, 404);
}

#[tokio::test]
async fn metrics_need_a_caller_who_may_read_them() {
    let served = serve(None).await;
    assert_eq!(get(&served, "/metrics", "", None).await.0, 403);
    assert_eq!(
        get(&served, "/metrics", "Authorization: Bearer bad\r\n", None).await.0,
        401
    );
    assert_eq!(
        get(&served, "/metrics", "Authorization: Bearer good\r\n", None).await.0,
        OK
    );
    assert_eq!(
        get(&served, "/debug", "Authorization: Bearer good\r\n", None).await.0,
        403
    );
}

#[tokio::test]
async fn a_client_certificate_counts_only_when_our_ca_signed_it() {
    let (key, key_pem) = pki::SigningKey::generate().unwrap();
    let validity = x509_cert::time::Validity::from_now(std::time::Duration::from_secs(600)).unwrap();
    let subject = "CN=root,O=system:masters".parse::<x509_cert::name::Name>().unwrap();
    let own = pki::self_signed(&key, subject, validity, Vec::new(), [3; 16]).unwrap();
    let dir = std::env::temp_dir().join(format!("steersman-serve-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("ca.crt");
    let (_, other) = pki::SigningKey::generate()
        .map(|(k, _)| {
            let subject = "CN=other-ca".parse::<x509_cert::name::Name>().unwrap();
            let validity = x509_cert::time::Validity::from_now(std::time::Duration::from_secs(600)).unwrap();
            (
                (),
                pki::self_signed(&k, subject, validity, Vec::new(), [4; 16]).unwrap(),
            )
        })
        .unwrap();
    std::fs::write(&file, other).unwrap();
    let served = serve(Some(&file)).await;
    assert_eq!(get(&served, "/metrics", "", Some((own, key_pem))).await.0, 401);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn after_stop_nobody_listens() {
    let served = serve(None).await;
    served.stop.cancel();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(tokio::net::TcpStream::connect(served.address).await.is_err());
}
