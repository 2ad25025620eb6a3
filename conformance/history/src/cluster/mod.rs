//! A control plane of its own for one run: etcd members and API servers, each in a network namespace, and what the faults
//! of the schedule do to them.
//!
//! Nobody restarts a program but the mending of a fault; a program that ends by itself is a trouble that fails the run.

pub mod net;
pub mod pki;
pub mod program;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use steersman_storage::{EtcdOptions, EtcdStore};

use self::net::{Net, member_ip, server_ip};
use self::pki::Pki;
use self::program::Program;
use crate::schedule::{Fault, Member};

/// How long members and servers may take to be ready at the start.
const START: Duration = Duration::from_secs(60);

/// Where things are, and how many.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Gone with the driver.
    pub scratch: PathBuf,
    pub logs: PathBuf,
    pub etcd: PathBuf,
    /// Server `i` is started from program `i` modulo their number.
    pub apiservers: Vec<PathBuf>,
    pub members: usize,
    pub servers: usize,
}

/// The running control plane.
pub struct Cluster {
    net: Net,
    pub pki: Pki,
    members: Vec<Program>,
    servers: Vec<Program>,
    store: EtcdStore,
    /// Programs that are down or paused on purpose, by name; a fault more than once.
    down: Vec<String>,
    pub troubles: Vec<String>,
}

/// What must be done to mend a fault.
pub struct Mending(Vec<Mend>);

enum Mend {
    Start(Role, usize),
    Resume(Role, usize),
    Heal { namespace: String, cut: String },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Member,
    Server,
}

impl Cluster {
    /// Makes network and keys, starts everything and waits until it is ready.
    pub async fn start(shape: &Shape) -> Result<Self> {
        let ips: Vec<_> = (0..shape.members)
            .map(member_ip)
            .chain((0..shape.servers).map(server_ip))
            .collect();
        let pki = Pki::make(&shape.scratch.join("pki"), &ips)?;
        let net = Net::make(&shape.scratch.join("net")).await?;
        std::fs::create_dir_all(&shape.logs)?;
        let mut members = Vec::new();
        for number in 0..shape.members {
            let name = format!("etcd-{}", number + 1);
            net.add(&name, &member_ip(number)).await?;
            let command = [net.inside(&name).to_vec(), member_command(shape, &pki, number)].concat();
            members.push(Program::new(&name, command, shape.logs.join(format!("{name}.log"))));
        }
        let mut servers = Vec::new();
        for number in 0..shape.servers {
            let name = format!("kube-apiserver-{}", number + 1);
            net.add(&name, &server_ip(number)).await?;
            let command = [net.inside(&name).to_vec(), server_command(shape, &pki, number)].concat();
            servers.push(Program::new(&name, command, shape.logs.join(format!("{name}.log"))));
        }
        members.iter_mut().chain(&mut servers).try_for_each(Program::start)?;
        let store = EtcdStore::connect(EtcdOptions {
            endpoints: (0..shape.members).map(|number| member_url(number, 2379)).collect(),
            ca: pki.read("etcd-ca.crt")?,
            cert: pki.read("etcd-client.crt")?,
            key: pki.read("etcd-client.key")?,
        })?;
        let mut cluster = Self {
            net,
            pki,
            members,
            servers,
            store,
            down: Vec::new(),
            troubles: Vec::new(),
        };
        let begin = Instant::now();
        while cluster.leader().await.is_none() {
            if begin.elapsed() > START {
                bail!("etcd has no leader after {START:?}: see {}", shape.logs.display());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        cluster.look_after();
        Ok(cluster)
    }

    /// `https://…` of every API server.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        (0..self.servers.len()).map(server_url).collect()
    }

    #[must_use]
    pub fn store(&self) -> EtcdStore {
        self.store.clone()
    }

    /// Number of etcd members.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    async fn leader(&self) -> Option<usize> {
        let answers = tokio::time::timeout(Duration::from_secs(1), self.store.members())
            .await
            .ok()?;
        answers
            .iter()
            .position(|member| member.as_ref().is_ok_and(|member| member.is_leader))
    }

    /// Does what a fault says. What is already down stays so.
    pub async fn inflict(&mut self, fault: &Fault, number: usize) -> Result<Mending> {
        let mut mends = Vec::new();
        match fault {
            Fault::KillServer(server) => self.kill(Role::Server, *server, &mut mends).await,
            Fault::EndServer(server) => {
                let program = self.program(Role::Server, *server);
                // One that is paused by another fault would not hear it.
                program.resume();
                program.end().await;
                self.taken_down(Role::Server, *server, &mut mends);
            }
            Fault::PauseServer(server) => self.pause(Role::Server, *server, &mut mends),
            Fault::KillMember(member) => {
                let member = self.number_of(*member).await;
                self.kill(Role::Member, member, &mut mends).await;
            }
            Fault::PauseMember(member) => {
                let member = self.number_of(*member).await;
                self.pause(Role::Member, member, &mut mends);
            }
            Fault::IsolateMember(member) => {
                let member = self.number_of(*member).await;
                let peers = (0..self.members.len())
                    .filter(|other| *other != member)
                    .map(member_ip)
                    .collect();
                self.cut(format!("etcd-{}", member + 1), number, peers, false, &mut mends)
                    .await?;
            }
            Fault::CutServer(server, member) => {
                let name = format!("kube-apiserver-{}", server + 1);
                self.cut(name, number, vec![member_ip(*member)], false, &mut mends)
                    .await?;
            }
            Fault::IsolateServer(server) | Fault::ResetServer(server) => {
                let name = format!("kube-apiserver-{}", server + 1);
                let all = (0..self.members.len()).map(member_ip).collect();
                let reset = matches!(fault, Fault::ResetServer(_));
                self.cut(name, number, all, reset, &mut mends).await?;
            }
            Fault::LoseQuorum(spared) | Fault::KillQuorum(spared) => {
                for member in (0..self.members.len()).filter(|member| member != spared) {
                    if matches!(fault, Fault::LoseQuorum(_)) {
                        self.pause(Role::Member, member, &mut mends);
                    } else {
                        self.kill(Role::Member, member, &mut mends).await;
                    }
                }
            }
        }
        Ok(Mending(mends))
    }

    /// Mends a fault. What another fault still holds down stays so.
    pub async fn mend(&mut self, mending: Mending) -> Result<()> {
        for mend in mending.0 {
            match mend {
                Mend::Heal { namespace, cut } => self.net.heal(&namespace, &cut).await?,
                Mend::Resume(role, number) | Mend::Start(role, number) => {
                    let name = self.program(role, number).name.clone();
                    if let Some(place) = self.down.iter().position(|down| *down == name) {
                        self.down.swap_remove(place);
                    }
                    if !self.down.contains(&name) {
                        let program = self.program(role, number);
                        program.resume();
                        program.start()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes programs that ended by themselves, and starts them again.
    pub fn look_after(&mut self) {
        for program in self.members.iter_mut().chain(&mut self.servers) {
            if !self.down.contains(&program.name) && !program.runs() {
                self.troubles.push(format!("{} ended by itself", program.name));
                if let Err(error) = program.start() {
                    self.troubles.push(format!("{error:#}"));
                }
            }
        }
    }

    /// Ends everything, politely.
    pub async fn stop(mut self) {
        for program in self.servers.iter_mut().chain(&mut self.members) {
            program.kill().await;
        }
    }

    fn program(&mut self, role: Role, number: usize) -> &mut Program {
        let of = if role == Role::Member {
            &mut self.members
        } else {
            &mut self.servers
        };
        let number = number % of.len();
        &mut of[number]
    }

    async fn number_of(&self, member: Member) -> usize {
        match member {
            Member::Number(number) => number,
            // Without a leader any member will do.
            Member::Leader => self.leader().await.unwrap_or_default(),
        }
    }

    fn taken_down(&mut self, role: Role, number: usize, mends: &mut Vec<Mend>) {
        let name = self.program(role, number).name.clone();
        self.down.push(name);
        mends.push(Mend::Start(role, number));
    }

    async fn kill(&mut self, role: Role, number: usize, mends: &mut Vec<Mend>) {
        self.program(role, number).kill().await;
        self.taken_down(role, number, mends);
    }

    fn pause(&mut self, role: Role, number: usize, mends: &mut Vec<Mend>) {
        let program = self.program(role, number);
        program.pause();
        let name = program.name.clone();
        self.down.push(name);
        mends.push(Mend::Resume(role, number));
    }

    async fn cut(
        &mut self,
        namespace: String,
        number: usize,
        from: Vec<String>,
        reset: bool,
        mends: &mut Vec<Mend>,
    ) -> Result<()> {
        let cut = format!("fault{number}");
        self.net.cut(&namespace, &cut, &from, reset).await?;
        mends.push(Mend::Heal { namespace, cut });
        Ok(())
    }
}

fn member_url(number: usize, port: u16) -> String {
    format!("https://{}:{port}", member_ip(number))
}

fn server_url(number: usize) -> String {
    format!("https://{}:6443", server_ip(number))
}

fn flag(name: &str, value: impl AsRef<Path>) -> String {
    format!("--{name}={}", value.as_ref().display())
}

fn member_command(shape: &Shape, pki: &Pki, number: usize) -> Vec<String> {
    let initial: Vec<_> = (0..shape.members)
        .map(|member| format!("etcd-{}={}", member + 1, member_url(member, 2380)))
        .collect();
    let name = format!("etcd-{}", number + 1);
    let mut command = vec![
        shape.etcd.display().to_string(),
        flag("name", &name),
        flag("data-dir", shape.scratch.join(&name)),
        flag("initial-cluster", initial.join(",")),
        "--initial-cluster-state=new".into(),
        "--client-cert-auth".into(),
        "--peer-client-cert-auth".into(),
        "--log-level=warn".into(),
    ];
    for (flags, port) in [
        (["listen-client-urls", "advertise-client-urls"], 2379),
        (["listen-peer-urls", "initial-advertise-peer-urls"], 2380),
    ] {
        command.extend(flags.map(|name| flag(name, member_url(number, port))));
    }
    for prefix in ["", "peer-"] {
        command.push(flag(&format!("{prefix}trusted-ca-file"), pki.file("etcd-ca.crt")));
        command.push(flag(&format!("{prefix}cert-file"), pki.file("etcd.crt")));
        command.push(flag(&format!("{prefix}key-file"), pki.file("etcd.key")));
    }
    command
}

fn server_command(shape: &Shape, pki: &Pki, number: usize) -> Vec<String> {
    let members: Vec<_> = (0..shape.members).map(|member| member_url(member, 2379)).collect();
    let program = &shape.apiservers[number % shape.apiservers.len()];
    vec![
        program.display().to_string(),
        flag("etcd-servers", members.join(",")),
        flag("etcd-cafile", pki.file("etcd-ca.crt")),
        flag("etcd-certfile", pki.file("etcd-client.crt")),
        flag("etcd-keyfile", pki.file("etcd-client.key")),
        // Compaction is one of the faults, so the driver does it.
        "--etcd-compaction-interval=0".into(),
        flag("advertise-address", server_ip(number)),
        "--bind-address=0.0.0.0".into(),
        "--secure-port=6443".into(),
        "--service-cluster-ip-range=10.232.0.0/16".into(),
        "--authorization-mode=Node,RBAC".into(),
        flag("client-ca-file", pki.file("ca.crt")),
        flag("tls-cert-file", pki.file("apiserver.crt")),
        flag("tls-private-key-file", pki.file("apiserver.key")),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        flag("service-account-key-file", pki.file("sa.pub")),
        flag("service-account-signing-key-file", pki.file("sa.key")),
    ]
}
