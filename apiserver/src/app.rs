//! Wiring: from flags to a server that serves, in order. The only place that knows every part.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response};
use steersman_admission::{Chain, Surroundings};
use steersman_auth::authn::{Anonymous, Authenticator, CaPool, Config, FrontProxy, ServiceAccounts, TokenFile};
use steersman_auth::authz::node::NodeAuthorizer;
use steersman_auth::authz::rbac::Rbac;
use steersman_auth::authz::{Authorizer, Union};
use steersman_auth::token::{Issuer, SigningKey, VerifyKey};
use steersman_schema::status::Status;
use steersman_storage::cache::{Cache, CacheOptions, Verdict};
use steersman_storage::{EtcdOptions, EtcdStore, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::authorities::Authorities;
use crate::body::{Body, RequestBody};
use crate::flags::Options;
use crate::health::Health;
use crate::kubelet::Kubelets;
use crate::limits::Limits;
use crate::lister::{CacheLister, KindIndexer, follow};
use crate::metrics::Metrics;
use crate::negotiate::Output;
use crate::resources::Resources;
use crate::server::{self, Answering, Peer, Service, Settings};
use crate::services::Services;
use crate::store_health::StoreHealth;
use crate::tls::{self, ServerCert};
use crate::{bootstrap, request, respond};

/// How often the cache is compared with the store (upstream: 5 min).
const COMPARE_EVERY: Duration = Duration::from_secs(300);

/// Why the server cannot start: one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

impl From<String> for StartError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// A server that listens and has not begun to serve.
pub struct App {
    pub api: Arc<Api>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    /// Ends background tasks.
    stop: CancellationToken,
    followers: Vec<Arc<dyn steersman_auth::Follower>>,
    authorities: Authorities,
}

/// Connects to etcd as the flags say.
///
/// # Errors
/// When a file cannot be read or used.
pub fn etcd(options: &Options) -> Result<Arc<dyn Store>, StartError> {
    let flags = &options.etcd;
    let file = |path: &Option<std::path::PathBuf>| path.as_deref().map_or(Ok(Vec::new()), read);
    let etcd = EtcdOptions {
        endpoints: flags.etcd_servers.clone(),
        ca: file(&flags.etcd_cafile)?,
        cert: file(&flags.etcd_certfile)?,
        key: file(&flags.etcd_keyfile)?,
    };
    let store =
        EtcdStore::connect(etcd).map_err(|error| StartError(format!("unable to use --etcd-servers: {error}")))?;
    Ok(Arc::new(store))
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|error| StartError(format!("open {}: {error}", path.display())))
}

impl App {
    /// Builds everything over a store, and listens.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub async fn build(options: Options, store: Arc<dyn Store>) -> Result<Self, StartError> {
        let faults = options.validate();
        if !faults.is_empty() {
            return Err(StartError(if faults.len() == 1 {
                faults.join("")
            } else {
                format!("[{}]", faults.join(", "))
            }));
        }
        tls::provider();
        let resources = Resources::build(&options.api.runtime_config, &options.etcd.etcd_prefix)
            .map_err(|faults| StartError(format!("--runtime-config: {}", faults.join(", "))))?;
        let resources = Arc::new(resources);
        let advertised = advertised(&options);
        let server_tls = serving_tls(&options, advertised)?;
        let listener = listen(&options)?;

        let prefix = format!("{}/", options.etcd.etcd_prefix.trim_end_matches('/'));
        let mut cache_options = CacheOptions::new(prefix.clone());
        cache_options.indexes = vec![(format!("{prefix}pods/"), "spec.nodeName".to_owned())];
        let cache = Cache::start(
            store.clone(),
            cache_options,
            Arc::new(KindIndexer::new(resources.clone())),
        );
        let lister = Arc::new(CacheLister::new(store.clone(), cache.clone(), resources.clone()));

        let rbac = Arc::new(Rbac::new());
        let mut followers: Vec<Arc<dyn steersman_auth::Follower>> = vec![rbac.clone()];
        let mut members: Vec<Arc<dyn Authorizer>> = Vec::new();
        for mode in &options.policy.authorization_mode {
            match mode.as_str() {
                "Node" => {
                    let node = Arc::new(NodeAuthorizer::new());
                    followers.push(node.clone());
                    members.push(node);
                }
                "RBAC" => members.push(rbac.clone()),
                // AlwaysDeny: nobody but system:masters.
                _ => {}
            }
        }
        let authorizer: Arc<dyn Authorizer> = Arc::new(Union::new(members));

        let (issuer, token_keys) = issuer(&options)?;
        let mut authorities = Authorities::default();
        let authenticator = authenticator(&options, &issuer, token_keys.clone(), lister.clone(), &mut authorities)?;
        let around = Surroundings {
            cluster: lister.clone(),
            authorizer: authorizer.clone(),
            not_ready_seconds: 300,
            unreachable_seconds: 300,
        };
        let policy = &options.policy;
        let admission = Chain::build(
            &policy.enable_admission_plugins,
            &policy.disable_admission_plugins,
            &around,
        )
        .map_err(|faults| StartError(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")))?;

        let stop = CancellationToken::new();
        let external_address = SocketAddr::new(advertised, options.serving.secure_port).to_string();
        let api = Arc::new(Api {
            store,
            cache,
            resources,
            lister,
            authenticator,
            authorizer,
            admission,
            issuer,
            token_keys,
            kubelets: Kubelets::build(&options.network)?,
            services: Services::new(
                options.service_ranges(),
                options.network.service_node_port_range,
                &options.etcd.etcd_prefix,
            ),
            limits: Limits::new(
                options.limits.max_mutating_requests_inflight,
                options.limits.max_requests_inflight,
            ),
            metrics: Metrics::default(),
            health: Health::default(),
            store_health: Arc::new(StoreHealth::default()),
            rbac,
            draining: CancellationToken::new(),
            request_timeout: options.limits.request_timeout.0,
            external_address,
            advertised,
            options,
        });
        Ok(Self {
            api,
            listener,
            tls: server_tls,
            stop,
            followers,
            authorities,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until `shutdown`, then drains: readiness fails first, then (after `--shutdown-delay-duration`) watches
    /// end and no new connections are taken.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self {
            api,
            listener,
            tls,
            stop,
            followers,
            authorities,
        } = self;
        tokio::spawn(authorities.keep_current(stop.clone()));
        let background = background(api.clone(), stop.clone(), followers);
        let settings = Settings {
            max_streams: api.options.serving.http2_max_streams_per_connection,
        };
        let service: Arc<dyn Service> = Arc::new(Handler(api.clone()));
        let serving = server::serve(
            listener,
            tls,
            settings,
            service,
            api.draining.clone(),
            api.request_timeout,
        );
        let serving = tokio::spawn(serving);
        shutdown.await;
        tracing::info!("stopping: /readyz fails from now on");
        api.health.stopping.store(true, Ordering::Release);
        tokio::time::sleep(api.options.serving.shutdown_delay_duration.0).await;
        // Our lease goes first, so that nobody is sent here any more.
        stop.cancel();
        if tokio::time::timeout(Duration::from_secs(2), background).await.is_err() {
            tracing::warn!("background work did not end in time");
        }
        api.draining.cancel();
        if let Err(error) = serving.await {
            tracing::error!(%error, "serving ended badly");
        }
        tracing::info!("stopped");
    }
}

/// Everything that runs beside requests. The task ends when the server's lease has been withdrawn.
fn background(
    api: Arc<Api>,
    stop: CancellationToken,
    followers: Vec<Arc<dyn steersman_auth::Follower>>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(api.store_health.clone().keep_asking(api.store.clone(), stop.clone()));
    {
        let (cache, stop) = (api.cache.clone(), stop.clone());
        tokio::spawn(async move {
            let report = |resource: &str, verdict: &Result<Verdict, steersman_storage::cache::Error>| {
                if let Ok(Verdict::Inconsistent { .. }) = verdict {
                    tracing::error!(
                        resource,
                        ?verdict,
                        "the watch cache differs from the store and is loaded anew"
                    );
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = cache.verify_regularly(COMPARE_EVERY, report) => {}
            }
        });
    }
    let interval = api.options.etcd.etcd_compaction_interval.0;
    if !interval.is_zero() {
        let (store, stop) = (api.store.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = steersman_storage::compact_regularly(store, interval) => {}
            }
        });
    }
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => return,
            () = api.cache.ready() => {}
        }
        api.store_health.heard();
        for follower in followers {
            follow(api.cache.clone(), api.lister.clone(), &api.resources, follower, &stop).await;
        }
        bootstrap::run(api, stop).await;
    })
}

/// Requests to the API.
struct Handler(Arc<Api>);

impl Service for Handler {
    fn call(self: Arc<Self>, peer: Arc<Peer>, request: Request<RequestBody>) -> Answering {
        Box::pin(request::handle(self.0.clone(), peer, request))
    }

    fn panicked(&self) -> Response<Body> {
        let status = Status::new(
            500,
            "InternalError",
            "This request caused apiserver to panic. Look in the logs for details.",
        );
        respond::status(&Output::default(), &status)
    }
}

fn advertised(options: &Options) -> IpAddr {
    if let Some(address) = options.serving.advertise_address {
        return address;
    }
    if !options.serving.bind_address.is_unspecified() {
        return options.serving.bind_address;
    }
    // The address that the system would send from; nothing is sent.
    let guess = || {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("198.51.100.1:9").ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    guess().unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

fn serving_tls(options: &Options, advertised: IpAddr) -> Result<Arc<rustls::ServerConfig>, StartError> {
    let serving = &options.serving;
    let files = match (&serving.tls_cert_file, &serving.tls_private_key_file) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        _ => {
            let mut names: Vec<String> = [
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "127.0.0.1",
            ]
            .map(str::to_owned)
            .to_vec();
            names.push(advertised.to_string());
            names.extend(
                options
                    .service_ranges()
                    .iter()
                    .map(|range| crate::services::first_address(range).to_string()),
            );
            names.dedup();
            tls::self_signed(&serving.cert_dir, &names).map_err(|error| StartError(error.to_string()))?
        }
    };
    let cert = ServerCert::load(&files.0, &files.1).map_err(|error| StartError(error.to_string()))?;
    tokio::spawn(cert.clone().follow_files());
    tls::server_config(cert, serving.tls_min_version == "VersionTLS13").map_err(|error| StartError(error.to_string()))
}

fn listen(options: &Options) -> Result<TcpListener, StartError> {
    use socket2::{Domain, Protocol, Socket, Type};
    let address = SocketAddr::new(options.serving.bind_address, options.serving.secure_port);
    let make = || -> std::io::Result<TcpListener> {
        let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if options.serving.permit_port_sharing {
            socket.set_reuse_port(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        TcpListener::from_std(socket.into())
    };
    make().map_err(|error| {
        StartError(format!(
            "failed to create listener: failed to listen on {address}: {error}"
        ))
    })
}

fn issuer(options: &Options) -> Result<(Issuer, Vec<VerifyKey>), StartError> {
    let flags = &options.authentication;
    let Some(file) = &flags.service_account_signing_key_file else {
        return Err(StartError(
            "--service-account-signing-key-file is a required flag".to_owned(),
        ));
    };
    let key = SigningKey::from_pem(&read(file)?).map_err(|error| {
        StartError(format!(
            "failed to parse service-account-issuer-key-file {}: {error}",
            file.display()
        ))
    })?;
    let mut keys = Vec::new();
    for file in &flags.service_account_key_file {
        let found = VerifyKey::from_pem(&read(file)?)
            .map_err(|error| StartError(format!("--service-account-key-file {}: {error}", file.display())))?;
        keys.extend(found);
    }
    if keys.is_empty() {
        keys.push(key.public.clone());
    }
    let issuer = flags.service_account_issuer.first().cloned().unwrap_or_default();
    let maximum = i64::try_from(flags.service_account_max_token_expiration.0.as_secs()).unwrap_or(0);
    let issuer = Issuer {
        api_audiences: audiences(options),
        issuer,
        key,
        max_seconds: (maximum > 0).then_some(maximum),
        extend: flags.service_account_extend_token_expiration,
    };
    Ok((issuer, keys))
}

fn audiences(options: &Options) -> Vec<String> {
    let flags = &options.authentication;
    if flags.api_audiences.is_empty() {
        flags.service_account_issuer.iter().take(1).cloned().collect()
    } else {
        flags.api_audiences.clone()
    }
}

fn authenticator(
    options: &Options,
    issuer: &Issuer,
    keys: Vec<VerifyKey>,
    lister: Arc<CacheLister>,
    authorities: &mut Authorities,
) -> Result<Authenticator, StartError> {
    let flags = &options.authentication;
    let mut pool = |file: &std::path::PathBuf, flag: &str| -> Result<Arc<CaPool>, StartError> {
        let pem = read(file)?;
        let pool = CaPool::from_pem(&pem).map_err(|why| StartError(format!("{flag} {}: {why}", file.display())))?;
        Ok(authorities.watch(file, pem, Arc::new(pool)))
    };
    let client_ca = flags
        .client_ca_file
        .as_ref()
        .map(|file| pool(file, "--client-ca-file"))
        .transpose()?;
    let front_proxy = match &flags.requestheader_client_ca_file {
        None => None,
        Some(file) => Some(FrontProxy {
            ca: pool(file, "--requestheader-client-ca-file")?,
            allowed_names: flags.requestheader_allowed_names.clone(),
            username_headers: or(&flags.requestheader_username_headers, &["x-remote-user"]),
            uid_headers: flags.requestheader_uid_headers.clone(),
            group_headers: or(&flags.requestheader_group_headers, &["x-remote-group"]),
            extra_prefixes: or(&flags.requestheader_extra_headers_prefix, &["x-remote-extra-"]),
        }),
    };
    let tokens = match &flags.token_auth_file {
        None => None,
        Some(file) => {
            let text =
                String::from_utf8(read(file)?).map_err(|error| StartError(format!("{}: {error}", file.display())))?;
            Some(TokenFile::parse(&text).map_err(StartError)?)
        }
    };
    // The aggregator's own pair must at least be readable and belong together.
    if let (Some(cert), Some(key)) = (&flags.proxy_client_cert_file, &flags.proxy_client_key_file) {
        ServerCert::load(cert, key).map_err(|error| StartError(format!("--proxy-client-cert-file: {error}")))?;
    }
    let config = Config {
        client_ca,
        front_proxy,
        tokens,
        service_accounts: Some(ServiceAccounts {
            issuers: flags.service_account_issuer.clone(),
            keys,
        }),
        bootstrap_tokens: flags.enable_bootstrap_token_auth,
        anonymous: match flags.anonymous_auth {
            None => Anonymous::health(),
            Some(true) => Anonymous::Always,
            Some(false) => Anonymous::Never,
        },
        api_audiences: issuer.api_audiences.clone(),
    };
    Ok(Authenticator::new(config, lister))
}

fn or(given: &[String], otherwise: &[&str]) -> Vec<String> {
    if given.is_empty() {
        otherwise.iter().map(|s| (*s).to_owned()).collect()
    } else {
        given.to_vec()
    }
}
