//! One channel per member, which one is in use, and who failed lately.
//!
//! All calls go to the pinned member. When it fails, the call goes to the next one, which becomes the pinned one if it
//! answers; a failed member is left alone for a while. So a dead member costs no failed request, and only the calls that
//! were under way feel it at all.

use std::{
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{EtcdOptions, Failure, MAX_MESSAGE, pb};
use crate::store::{Error, Result};

/// A request is answered or fails within this time.
const DEADLINE: Duration = Duration::from_millis(9_500);
/// Time for the first attempts; the last one gets what is left. A healthy member answers in milliseconds.
const ATTEMPTS: [Duration; 3] = [
    Duration::from_millis(1_500),
    Duration::from_secs(2),
    Duration::from_secs(3),
];
/// How long a failed member is asked last.
const PENALTY: Duration = Duration::from_secs(2);
/// Pause when all members failed in a row.
const PAUSE: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_secs(1);
/// etcd answers pings that come more often than every 5 s (`--grpc-keepalive-min-time`) by closing the connection.
const PING: Duration = Duration::from_secs(6);
const PONG: Duration = Duration::from_secs(3);

/// All members of the cluster.
pub(super) struct Members {
    members: Vec<Member>,
    /// Number of the member in use; watches listen to it.
    pinned: watch::Sender<usize>,
    start: Instant,
}

/// One member.
pub(super) struct Member {
    pub endpoint: String,
    channel: Channel,
    /// Milliseconds after [`Members::start`] up to which the member is asked last.
    shunned_until: AtomicU64,
}

/// The channel with our metadata on each call.
type Service = InterceptedService<Channel, HasLeader>;

/// Makes a member without leader refuse at once instead of letting the call wait.
#[derive(Clone, Copy)]
pub(super) struct HasLeader;

impl Interceptor for HasLeader {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("hasleader", MetadataValue::<Ascii>::from_static("true"));
        Ok(request)
    }
}

impl Member {
    fn new(url: &str, options: &EtcdOptions) -> Result<Self> {
        let bad = |e: tonic::transport::Error| Error::Internal(format!("etcd endpoint {url:?}: {e:?}"));
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(bad)?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20);
        if url.starts_with("https://") {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&options.ca));
            if !options.cert.is_empty() {
                tls = tls.identity(Identity::from_pem(&options.cert, &options.key));
            }
            endpoint = endpoint.tls_config(tls).map_err(bad)?;
        }
        Ok(Member {
            endpoint: url.into(),
            channel: endpoint.connect_lazy(),
            shunned_until: AtomicU64::new(0),
        })
    }

    pub fn kv(&self) -> pb::kv_client::KvClient<Service> {
        pb::kv_client::KvClient::with_interceptor(self.channel.clone(), HasLeader)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    pub fn watch(&self) -> pb::watch_client::WatchClient<Service> {
        pb::watch_client::WatchClient::with_interceptor(self.channel.clone(), HasLeader)
            .max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn lease(&self) -> pb::lease_client::LeaseClient<Service> {
        pb::lease_client::LeaseClient::with_interceptor(self.channel.clone(), HasLeader)
    }

    pub async fn status(&self) -> Result<pb::StatusResponse> {
        let mut client = pb::maintenance_client::MaintenanceClient::new(self.channel.clone());
        match tokio::time::timeout(ATTEMPTS[0], client.status(pb::StatusRequest {})).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Error::Unavailable(format!("{}: {}", self.endpoint, status.message()))),
            Err(_) => Err(Error::Timeout(self.endpoint.clone())),
        }
    }
}

/// The time that one operation has, and what happened in it so far.
pub(super) struct Effort {
    deadline: Instant,
    tries: usize,
    last: String,
}

impl Effort {
    pub fn new() -> Self {
        Effort {
            deadline: Instant::now() + DEADLINE,
            tries: 0,
            last: String::new(),
        }
    }

    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// What went wrong last, for the error text.
    pub fn why(&self) -> String {
        format!("{} after {} tries", self.last, self.tries)
    }
}

impl Members {
    pub fn new(options: &EtcdOptions) -> Result<Self> {
        let members: Vec<Member> = options
            .endpoints
            .iter()
            .map(|url| Member::new(url, options))
            .collect::<Result<_>>()?;
        if members.is_empty() {
            return Err(Error::Internal("no etcd endpoint is given".into()));
        }
        Ok(Members {
            members,
            pinned: watch::Sender::new(0),
            start: Instant::now(),
        })
    }

    pub fn each(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The member to ask now: the pinned one, or after its failure the next one that did not fail lately.
    pub fn pick(&self) -> (usize, &Member) {
        let now = self.now();
        let pinned = *self.pinned.borrow();
        let from_pinned = self
            .members
            .iter()
            .enumerate()
            .cycle()
            .skip(pinned)
            .take(self.members.len());
        from_pinned
            .min_by_key(|(_, m)| Some(m.shunned_until.load(Ordering::Relaxed)).filter(|until| *until > now))
            .unwrap_or((0, &self.members[0]))
    }

    /// The member answered: use it, if the one in use failed.
    pub fn praise(&self, at: usize) {
        let Some(member) = self.members.get(at) else { return };
        member.shunned_until.store(0, Ordering::Relaxed);
        let now = self.now();
        self.pinned.send_if_modified(|pinned| {
            // A late answer of a slow member does not bring it back.
            let failed = |m: &Member| m.shunned_until.load(Ordering::Relaxed) > now;
            let moves = *pinned != at && self.members.get(*pinned).is_none_or(failed);
            if moves {
                tracing::info!(endpoint = member.endpoint, "using another etcd member");
                *pinned = at;
            }
            moves
        });
    }

    /// Waits until another member is in use.
    pub async fn left(&self, at: usize) {
        // The sender lives as long as `self`.
        let _ = self.pinned.subscribe().wait_for(|pinned| *pinned != at).await;
    }

    /// The member failed: ask others first for a while.
    pub fn shun(&self, at: usize) {
        if let Some(member) = self.members.get(at) {
            let until = self.now() + u64::try_from(PENALTY.as_millis()).unwrap_or(0);
            member.shunned_until.store(until, Ordering::Relaxed);
        }
    }

    /// One attempt of an operation at one member. The caller repeats until success, [`Failure::Final`], or [`Effort::is_over`].
    pub async fn attempt<'a, T, F, R>(&'a self, effort: &mut Effort, call: F) -> Result<T, Failure>
    where
        F: FnOnce(&'a Member) -> R,
        R: Future<Output = Result<Response<T>, Status>> + Send,
    {
        if effort.tries > 0 && effort.tries.is_multiple_of(self.members.len()) {
            tokio::time::sleep(PAUSE).await;
        }
        let left = effort.deadline.saturating_duration_since(Instant::now());
        let limit = ATTEMPTS.get(effort.tries).map_or(left, |attempt| left.min(*attempt));
        effort.tries += 1;
        let (at, member) = self.pick();
        let failure = match tokio::time::timeout(limit, call(member)).await {
            Ok(Ok(answer)) => {
                self.praise(at);
                return Ok(answer.into_inner());
            }
            Ok(Err(status)) => Failure::of(&status),
            Err(_) => Failure::Unknown(format!("no answer within {limit:?}")),
        };
        match &failure {
            Failure::Final(_) => self.praise(at),
            Failure::NotDone(why) | Failure::Unknown(why) => {
                tracing::debug!(endpoint = member.endpoint, %why, "etcd member failed");
                effort.last = format!("{}: {why}", member.endpoint);
                self.shun(at);
            }
        }
        Err(failure)
    }

    /// A call that may be repeated freely: a read, or something idempotent.
    pub async fn read<'a, T, F, R>(&'a self, call: F) -> Result<T>
    where
        F: Fn(&'a Member) -> R,
        R: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let mut effort = Effort::new();
        let mut unreachable = true;
        loop {
            match self.attempt(&mut effort, &call).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::NotDone(_)) => {}
                Err(Failure::Unknown(_)) => unreachable = false,
            }
            if effort.is_over() {
                let why = effort.why();
                return Err(if unreachable {
                    Error::Unavailable(why)
                } else {
                    Error::Timeout(why)
                });
            }
        }
    }
}
