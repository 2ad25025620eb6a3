//! A real three-member etcd on loopback with mutual TLS, in a temporary folder, for one test.
#![allow(dead_code)]

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use steersman_storage::{EtcdOptions, EtcdStore, Store};
use tempfile::TempDir;

/// The etcd program: `$STEERSMAN_ETCD`, what `hack/up` fetched, or the one in PATH; at least version 3.5.
fn program() -> PathBuf {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned();
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::var_os("STEERSMAN_ETCD")
        .map(PathBuf::from)
        .into_iter()
        .chain([
            repo.join(".cluster/bin/etcd"),
            repo.join(".cluster/cache/tools/usr/bin/etcd"),
        ])
        .chain(std::env::split_paths(&in_path).map(|dir| dir.join("etcd")));
    let mut refused = vec![];
    for path in candidates {
        let Ok(output) = Command::new(&path).arg("--version").output() else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text
            .lines()
            .find_map(|l| l.strip_prefix("etcd Version: "))
            .unwrap_or("")
            .to_owned();
        let mut parts = version.split('.').map_while(|p| p.parse::<u32>().ok());
        if (parts.next(), parts.next()) >= (Some(3), Some(5)) {
            return path;
        }
        refused.push(format!("{} ({version})", path.display()));
    }
    panic!(
        "this test needs etcd >= 3.5: set STEERSMAN_ETCD to the program, or run hack/up once. Found but too old: {refused:?}"
    );
}

pub struct Cluster {
    dir: TempDir,
    program: PathBuf,
    pub members: Vec<Member>,
}

pub struct Member {
    pub name: String,
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Member {
    /// Ends the process at once, like a crash.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.client)
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// The process stands still, its connections stay open.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(dir)
        .output()
        .expect("openssl");
    assert!(
        output.status.success(),
        "openssl {args}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn make_pki(dir: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        dir,
        &format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=etcd-ca -days 2"),
    );
    openssl(
        dir,
        &format!("req {key} -keyout member.key -out member.csr -subj /CN=etcd"),
    );
    fs::write(
        dir.join("ext"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=digitalSignature\n",
    )
    .unwrap();
    openssl(
        dir,
        "x509 -req -in member.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out member.crt -days 2 -extfile ext",
    );
}

impl Cluster {
    /// Starts three members and waits until they serve.
    pub async fn start() -> (Cluster, EtcdStore) {
        let program = program();
        let dir = tempfile::tempdir().unwrap();
        make_pki(dir.path());
        let members = (0..3)
            .map(|n| Member {
                name: format!("m{n}"),
                client: free_port(),
                peer: free_port(),
                process: None,
            })
            .collect();
        let mut cluster = Cluster { dir, program, members };
        for n in 0..3 {
            cluster.run(n);
        }
        let store = cluster.connect();
        let start = Instant::now();
        while store.current_revision().await.is_err() || store.members().await.iter().any(Result::is_err) {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "etcd does not start: {}",
                cluster.log(0)
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        (cluster, store)
    }

    pub fn connect(&self) -> EtcdStore {
        EtcdStore::connect(self.options()).unwrap()
    }

    pub fn options(&self) -> EtcdOptions {
        let read = |name: &str| fs::read(self.dir.path().join(name)).unwrap();
        EtcdOptions {
            endpoints: self.members.iter().map(Member::url).collect(),
            ca: read("ca.crt"),
            cert: read("member.crt"),
            key: read("member.key"),
        }
    }

    fn log(&self, n: usize) -> String {
        fs::read_to_string(self.dir.path().join(format!("m{n}.log"))).unwrap_or_default()
    }

    /// Starts member `n` (again).
    pub fn run(&mut self, n: usize) {
        let dir = self.dir.path();
        let initial: Vec<String> = self
            .members
            .iter()
            .map(|m| format!("{}=https://127.0.0.1:{}", m.name, m.peer))
            .collect();
        let file = |name: &str| dir.join(name).display().to_string();
        let (crt, key, ca) = (file("member.crt"), file("member.key"), file("ca.crt"));
        let member = &self.members[n];
        let (client, peer) = (member.url(), format!("https://127.0.0.1:{}", member.peer));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(file(&format!("{}.log", member.name)))
            .unwrap();
        let process = Command::new(&self.program)
            .args(["--name", &member.name, "--data-dir", &file(&member.name)])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args([
                "--initial-cluster",
                &initial.join(","),
                "--initial-cluster-token",
                "test",
            ])
            .args([
                "--cert-file",
                &crt,
                "--key-file",
                &key,
                "--trusted-ca-file",
                &ca,
                "--client-cert-auth",
            ])
            .args([
                "--peer-cert-file",
                &crt,
                "--peer-key-file",
                &key,
                "--peer-trusted-ca-file",
                &ca,
            ])
            .args(["--peer-client-cert-auth", "--log-level", "warn", "--unsafe-no-fsync"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.members[n].process = Some(process);
    }

    /// Number of the member that leads now.
    pub async fn leader(&self, store: &EtcdStore) -> usize {
        let urls: Vec<String> = self.members.iter().map(Member::url).collect();
        for _ in 0..100 {
            for status in store.members().await.into_iter().flatten() {
                if status.is_leader {
                    return urls.iter().position(|u| *u == status.endpoint).unwrap();
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no leader");
    }
}
