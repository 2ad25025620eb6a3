//! A server on a free port, and a client that speaks plain HTTP/1.1 over TLS to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use steersman_apiserver::app::App;
use steersman_apiserver::flags::Options;
use steersman_storage::MemoryStore;
use tokio::sync::oneshot;

/// The token of a member of `system:masters`.
pub const ADMIN: &str = "admin-token";
/// The token of a user whom nobody gave any rights.
pub const NOBODY: &str = "nobody-token";

pub struct Server {
    port: u16,
    tls: Arc<rustls::ClientConfig>,
    pub api: Arc<steersman_apiserver::api::Api>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub text: String,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.json()
    }
    /// Code, reason and message of a refusal.
    #[track_caller]
    pub fn refused(self, code: u16, reason: &str, message: &str) {
        let value = self.expect(code);
        assert_eq!(value["kind"], "Status");
        assert_eq!(
            (
                value["reason"].as_str().unwrap_or(""),
                value["message"].as_str().unwrap_or("")
            ),
            (reason, message)
        );
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let tokens = format!("{ADMIN},admin,1,system:masters\n{NOBODY},nobody,2\n");
        std::fs::write(at("tokens.csv"), tokens).unwrap();
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(at("sa.key"), key).unwrap();
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut args: Vec<String> = vec![
            "--etcd-servers=http://memory".into(),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            "--advertise-address=192.0.2.1".into(),
            "--service-cluster-ip-range=10.232.0.0/24".into(),
            format!("--cert-dir={}", at("certs")),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-signing-key-file={}", at("sa.key")),
            "--etcd-compaction-interval=0".into(),
        ];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let options = Options::parse_args(args).unwrap().unwrap();
        let app = App::build(options, Arc::new(MemoryStore::new())).await.unwrap();
        let api = app.api.clone();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(app.run(async {
            let _ = stopped.await;
        }));
        let pem = std::fs::read(at("certs/apiserver.crt")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(steersman_apiserver::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = Self {
            port,
            tls: Arc::new(tls),
            api,
            stop: Some(stop),
            running: Some(running),
            _folder: folder,
        };
        for _ in 0..500 {
            if server.send(Method::GET, "/readyz", None, &[], "").await.code == 200 {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not ready: {}", server.get("/readyz?verbose").await.text);
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        headers: &[(&str, &str)],
        token: &str,
    ) -> http::Response<Incoming> {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(self.tls.clone());
        let tls = connector
            .connect(ServerName::try_from("127.0.0.1").unwrap(), tcp)
            .await
            .unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1");
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some()
            && !headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender
            .send_request(request.body(Full::new(body.unwrap_or_default())).unwrap())
            .await
            .unwrap()
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        headers: &[(&str, &str)],
        token: &str,
    ) -> Answer {
        let (parts, body) = self.open(method, path, body, headers, token).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, &[], ADMIN).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body.to_string().into()), &[], ADMIN)
            .await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(body.to_string().into()), &[], ADMIN)
            .await
    }

    /// `kind` is `json`, `merge` or `strategic-merge`.
    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        let kind = format!("application/{kind}-patch+json");
        self.send(
            Method::PATCH,
            path,
            Some(body.to_string().into()),
            &[("content-type", &kind)],
            ADMIN,
        )
        .await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, &[], ADMIN).await
    }

    /// A namespace with a few ConfigMaps in it; returns its path.
    pub async fn namespace(&self, name: &str, config_maps: &[&str]) -> String {
        self.post("/api/v1/namespaces", json!({"metadata": {"name": name}}))
            .await
            .expect(201);
        let path = format!("/api/v1/namespaces/{name}");
        for config_map in config_maps {
            self.post(&format!("{path}/configmaps"), config(config_map))
                .await
                .expect(201);
        }
        path
    }

    /// A watch; lines arrive one by one.
    pub async fn watch(&self, path: &str) -> Lines {
        let response = self.open(Method::GET, path, None, &[], ADMIN).await;
        assert_eq!(response.status(), 200);
        Lines {
            body: response.into_body(),
            pending: Vec::new(),
        }
    }

    /// Stops the server and waits until it is gone.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            tokio::time::timeout(Duration::from_secs(10), running)
                .await
                .expect("drains in time")
                .unwrap();
        }
    }
}

pub struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    /// The next event; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame())
                .await
                .expect("an event in time");
            match frame {
                None => return None,
                Some(frame) => self.pending.extend_from_slice(&frame.unwrap().into_data().unwrap()),
            }
        }
    }

    /// The next event as `TYPE name`.
    pub async fn named(&mut self) -> String {
        let event = self.next().await.expect("an event");
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["object"]["metadata"]["name"].as_str().unwrap_or_default()
        )
    }
}

pub fn config(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}
