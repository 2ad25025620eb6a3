//! Requests where the wire matters, or where kubectl would cost more than what is tested: through curl.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Cluster, Kubectl, Watch};

/// The API server as curl reaches it.
#[derive(Clone, Debug)]
pub struct Http {
    cluster: Cluster,
    server: String,
    admin: bool,
}

/// Status code and body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub body: String,
}

impl Answer {
    /// The body as JSON, `Null` if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// The JSON of an answer that must be a 2xx.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn ok(&self) -> Value {
        assert!((200..300).contains(&self.code), "{}: {}", self.code, self.body);
        self.json()
    }
}

impl Http {
    /// As the administrator, by client certificate.
    #[must_use]
    pub fn admin(cluster: &Cluster) -> Self {
        let server = Kubectl::new(cluster)
            .run("config view --minify -o jsonpath={.clusters[0].cluster.server}")
            .ok();
        Self {
            cluster: cluster.clone(),
            server,
            admin: true,
        }
    }

    /// The same, at another address (`https://host:port`).
    #[must_use]
    pub fn at(&self, server: &str) -> Self {
        Self {
            server: server.to_owned(),
            ..self.clone()
        }
    }

    /// Without any credentials.
    #[must_use]
    pub fn anonymous(cluster: &Cluster) -> Self {
        Self {
            admin: false,
            ..Self::admin(cluster)
        }
    }

    /// One request; `headers` as `Name: value`.
    ///
    /// # Panics
    /// When curl cannot be started or gets no answer.
    #[must_use]
    pub fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut command = self.curl(headers);
        command.args(["--max-time", "30", "-X", method, "-w", "\n%{http_code}"]);
        if !body.is_empty() {
            command.args(["--data-binary", "@-"]);
        }
        command.arg(format!("{}{path}", self.server));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl starts");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        let body = body.to_vec();
        // The server may answer and hang up before it has read everything.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&body)));
        let output = child.wait_with_output().expect("curl ends");
        drop(writer.join());
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, code) = text.rsplit_once('\n').unwrap_or(("", &text));
        Answer {
            code: code.parse().unwrap_or_default(),
            body: body.to_owned(),
        }
    }

    /// Opens a watch: `path` with its query, headers as for [`Http::send`]. It lives at most two minutes.
    ///
    /// # Panics
    /// When curl cannot be started.
    #[must_use]
    pub fn watch(&self, path: &str, headers: &[&str]) -> Watch {
        let mut command = self.curl(headers);
        command
            .args(["--no-buffer", "--max-time", "120"])
            .arg(format!("{}{path}", self.server));
        Watch::follow(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .expect("curl starts"),
        )
    }

    /// curl with this client's credentials and these headers.
    fn curl(&self, headers: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["-sS", "--cacert"]).arg(self.cluster.pki("ca.crt"));
        if self.admin {
            command
                .arg("--cert")
                .arg(self.cluster.pki("admin.crt"))
                .arg("--key")
                .arg(self.cluster.pki("admin.key"));
        }
        for header in headers {
            command.args(["-H", header]);
        }
        command
    }

    /// A request with a JSON body of a media type, or none.
    #[must_use]
    pub fn json(&self, method: &str, path: &str, media: &str, body: &Value) -> Answer {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.send(method, path, &[&format!("Content-Type: {media}")], text.as_bytes())
    }

    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], &[])
    }
}
