//! The program: flags, and everything started in order.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use steersman_cri::{Client as CriClient, Runtime};
use steersman_runtime::events::{EventType, Recorder};
use steersman_runtime::flags::ServingFlags;
use steersman_runtime::serve::{Gate, tls};
use steersman_runtime::{Client, Informer, ListOptions, shutdown};
use steersman_types::api::core::v1::{Pod, Service};
use tokio::sync::Notify;

use crate::allocations::Allocations;
use crate::api::ApiWriter;
use crate::certs::{self, store::Store};
use crate::cgroups::{Cgroups, NodeShare};
use crate::config::KubeletConfiguration;
use crate::context::Context;
use crate::dns::{DnsSettings, parse_resolv_conf};
use crate::events::Sink;
use crate::eviction::manager::Manager;
use crate::eviction::threshold::thresholds;
use crate::gc::{self, Collector};
use crate::images::Images;
use crate::node::machine::{Available, Machine};
use crate::node::status::{NodeSeen, allocatable};
use crate::node::update::{NodeUpdater, reference};
use crate::node::{VERSION, lease};
use crate::overrides::Overrides;
use crate::pods::Pods;
use crate::quantity::{milli, value};
use crate::runtime::resources::{NodeLimits, Swap};
use crate::server::{Server, serve_health};
use crate::sources::ApiObjects;
use crate::statics::{Mirrors, files, url};
use crate::stats::Figures;
use crate::volumes::Volumes;

/// The runtime has not been listed for so long: something hangs. Upstream's threshold for its relist.
const RELIST_HEALTH: Duration = Duration::from_secs(180);

/// The kubelet is the primary "node agent" that runs on each node.
#[derive(Parser, Debug)]
#[command(name = "kubelet", version = VERSION, about)]
pub struct Flags {
    /// File with the configuration (KubeletConfiguration, kubelet.config.k8s.io/v1beta1).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// File that says how to reach the API server, and as whom.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Path to a kubeconfig file that will be used to get client certificate for kubelet. If the file specified by
    /// --kubeconfig does not exist, the bootstrap kubeconfig is used to request a client certificate from the API server.
    /// On success, a kubeconfig file referencing the generated client certificate and key is written to the path
    /// specified by --kubeconfig.
    #[arg(long, value_name = "FILE")]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Name of the node instead of the host's name.
    #[arg(long, default_value = "", value_name = "NAME")]
    pub hostname_override: String,
    /// Addresses of the node, at most one per family.
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    pub node_ip: Vec<IpAddr>,
    /// Labels to register the node with, as key=value.
    #[arg(long, value_delimiter = ',', value_name = "LABELS")]
    pub node_labels: Vec<String>,
    /// Directory for the agent's files (volumes and such).
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR")]
    pub root_dir: PathBuf,
    /// Directory for the serving certificate that is made when none is configured.
    #[arg(long, default_value = "/var/lib/kubelet/pki", value_name = "DIR")]
    pub cert_dir: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Number for the log level verbosity.
    #[arg(short = 'v', long = "v", default_value_t = 0, value_name = "LEVEL")]
    pub v: u8,
}

/// Runs until a signal asks to stop. Containers go on running after that.
///
/// # Errors
/// One line about what keeps it from starting.
pub async fn run(flags: Flags) -> Result<(), String> {
    let Flags {
        config,
        kubeconfig,
        bootstrap_kubeconfig,
        hostname_override,
        node_ip,
        node_labels,
        root_dir,
        cert_dir,
        overrides,
        v: _,
    } = flags;
    let config = match config {
        Some(path) => KubeletConfiguration::load(&path)?,
        None => KubeletConfiguration::default(),
    };
    let config = Arc::new(overrides.apply(config)?);
    let stop = shutdown::on_signals().map_err(|e| e.to_string())?;
    let node = node_name(&hostname_override)?;
    let labels = parse_labels(&node_labels)?;
    let addresses: Vec<String> = match node_ip.as_slice() {
        [] => vec![default_address()?.to_string()],
        given => given.iter().map(ToString::to_string).collect(),
    };

    let user_agent = format!("kubelet/{VERSION}");
    if let Some(bootstrap) = bootstrap_kubeconfig
        && !certs::bootstrap::still_valid(&kubeconfig, steersman_types::jiff::Timestamp::now())
    {
        certs::bootstrap::run(&bootstrap, &kubeconfig, &cert_dir, &node, &user_agent).await?;
    }
    let own = Store::new(&cert_dir, "kubelet-client");
    let identity = config.rotate_certificates.then(|| own.current_path());
    let (client, reloader) = Client::reloading(&kubeconfig, identity, &user_agent)
        .await
        .map_err(|e| e.to_string())?;
    let runtime: Arc<dyn Runtime> = Arc::new(CriClient::new(
        &config.container_runtime_endpoint,
        config.runtime_request_timeout,
    )?);
    check_cgroup_driver(runtime.as_ref()).await?;
    prepare_host(&config, &root_dir)?;
    let recorder = Recorder::new(client.clone(), "kubelet", &node);
    let machine = Machine::read();
    let quota_period = i64::try_from(config.cpu_cfs_quota_period.as_micros()).unwrap_or(i64::MAX);
    let cgroups = Cgroups::new(
        &config.cgroup_root,
        config.cpu_cfs_quota,
        quota_period,
        config.pod_pids_limit,
    );
    if !cgroups.is_v2() && config.fail_cgroup_v1 {
        return Err("kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is deprecated and will be removed in a future release".into());
    }
    if !cgroups.is_v2() && config.single_process_oom_kill == Some(false) {
        return Err(
            "invalid configuration: singleProcessOOMKill must not be explicitly set to false when using cgroup v1"
                .into(),
        );
    }
    cgroups
        .init()
        .map_err(|e| format!("failed to initialize the cgroups of pods: {e}"))?;
    let share = share_of_pods(&config, &machine);
    if let Err(e) = cgroups.limit_pods(share) {
        tracing::warn!(error = %e, "Failed to update Node Allocatable Limits");
    }

    let services: Informer<Service> = Informer::start(client.clone(), ListOptions::all());
    let known_services = services.clone();
    let node_limits = NodeLimits {
        memory: machine.memory,
        quota: config.cpu_cfs_quota,
        quota_period,
        cgroup_v2: cgroups.is_v2(),
        single_oom_kill: config.single_process_oom_kill.unwrap_or(!cgroups.is_v2()),
        swap: Swap {
            limitable: cgroups.limits_swap(),
            limited: config.memory_swap.limited(),
            capacity: machine.swap,
        },
    };
    let objects = Arc::new(ApiObjects::new(client.clone()));
    let parallel = if config.serialize_image_pulls {
        Some(1)
    } else {
        config.max_parallel_image_pulls
    };
    let mirrors: Arc<Mirrors> = Arc::default();
    let context = Arc::new(Context {
        api: Arc::new(ApiWriter::new(client.clone(), mirrors.clone())),
        sink: Sink::Api(recorder.clone()),
        services: Box::new(move || known_services.list()),
        volumes: Volumes::new(&root_dir, objects.clone()),
        objects,
        images: Images::new(runtime.clone(), parallel, &root_dir),
        turns: crate::turns::Turns::default(),
        cgroups,
        dns: dns_settings(&config)?,
        node: node_limits,
        allocatable: allocatable_numbers(&config, &machine, &root_dir),
        allocations: Allocations::default(),
        pressure: Arc::default(),
        probed: Arc::default(),
        host_ips: addresses.clone(),
        cluster_domain: config.cluster_domain.clone(),
        root: root_dir.clone(),
        pod_logs: config.pod_logs_dir.clone(),
        container_logs: "/var/log/containers".into(),
        seccomp_default: config.seccomp_default,
        max_backoff_seconds: i64::try_from(config.crash_loop_back_off.max_container_restart_period.as_secs())
            .unwrap_or(300),
        sync_period: config.sync_frequency,
        runtime: runtime.clone(),
    });
    let max_pods = usize::try_from(config.max_pods).unwrap_or(usize::MAX);
    let pods = Pods::new(context.clone(), max_pods, mirrors.clone());

    let memory = u64::try_from(machine.memory).unwrap_or(0);
    let figures = Figures::new(
        context.clone(),
        pods.clone(),
        &node,
        memory,
        u64::try_from(share.memory).unwrap_or(0),
    );
    let figures = Arc::new(figures);
    let certificate: Arc<tls::Changing> = Arc::default();
    let served = Store::new(&cert_dir, "kubelet-server");
    let first = match (&config.tls_cert_file, &config.tls_private_key_file) {
        (Some(certificate), Some(key)) => Some(tls::Serving::from_files(certificate, key)?),
        // Until somebody has signed the first one, nobody is served.
        _ if config.server_tls_bootstrap => served.current(),
        _ => Some(tls::Serving::self_signed(Some(&cert_dir), "kubelet")?),
    };
    if let Some(first) = &first {
        certificate.set(first)?;
    }
    let server = Server {
        context: context.clone(),
        pods: pods.clone(),
        gate: gate(&config, &client)?,
        config: config.clone(),
        node: node.clone(),
        machine: machine.clone(),
        figures: figures.clone(),
    };
    server
        .start(
            SocketAddr::new(config.address, config.port),
            certificate.clone(),
            stop.clone(),
        )
        .await?;
    if config.healthz_port != 0 {
        serve_health(
            SocketAddr::new(config.healthz_bind_address, config.healthz_port),
            pods.clone(),
        )
        .await?;
    }

    if let (Some(file), Some(key)) = (config.tls_cert_file.clone(), config.tls_private_key_file.clone()) {
        tokio::spawn(certs::files::follow(file, key, certificate.clone()));
    }
    if config.server_tls_bootstrap {
        let wish = certs::serving(&node, &addresses);
        let use_it = async move |new: &tls::Serving| certificate.set(new);
        tokio::spawn(certs::rotation::run(client.clone(), wish, served, None, use_it));
    }
    if config.rotate_certificates {
        let before = certs::bootstrap::identity_of(&kubeconfig);
        let use_it = async move |_: &tls::Serving| reloader.reload().await.map_err(|e| e.to_string());
        tokio::spawn(certs::rotation::run(
            client.clone(),
            certs::client(&node),
            own,
            before,
            use_it,
        ));
    }
    // Pods of files run whether or not there is an API server.
    tokio::spawn(pods.clone().follow_runtime());
    if let Some(path) = config.static_pod_path.clone() {
        let every = config.file_check_frequency;
        tokio::spawn(files::run(path, node.clone(), every, pods.clone()));
    }
    if !config.static_pod_url.is_empty() {
        let source = url::Source::new(&config.static_pod_url, &config.static_pod_url_header)?;
        mirrors.expect();
        let every = config.http_check_frequency;
        tokio::spawn(source.run(node.clone(), every, pods.clone(), mirrors.clone()));
    }
    recorder.event(&reference(&node), EventType::Normal, "Starting", "Starting kubelet.");
    let registered = Arc::new(Notify::new());
    let relisting = pods.clone();
    let updater = NodeUpdater {
        client: client.clone(),
        runtime: runtime.clone(),
        recorder: recorder.clone(),
        config: config.clone(),
        name: node.clone(),
        addresses,
        machine,
        root: root_dir,
        labels,
        health: Box::new(move || {
            let fine = relisting.relisted(RELIST_HEALTH);
            if fine {
                Vec::new()
            } else {
                vec!["PLEG is not healthy: pleg was last seen active too long ago".into()]
            }
        }),
        pressure: context.pressure.clone(),
        registered: registered.clone(),
        known: parking_lot::Mutex::default(),
    };
    tokio::spawn(updater.run());
    registered.notified().await;
    tokio::spawn(lease::run(
        client.clone(),
        node.clone(),
        config.node_lease_duration_seconds,
    ));
    tokio::spawn(gc::rotate_logs(context.clone(), config.clone()));
    let collector = Collector::new(
        context.clone(),
        pods.clone(),
        figures.clone(),
        &config,
        steersman_types::jiff::Timestamp::now(),
    );
    tokio::spawn(collector.clone().run(recorder.clone(), node.clone()));
    let evictions = Manager {
        context: context.clone(),
        pods: pods.clone(),
        figures,
        collector,
        recorder: recorder.clone(),
        node: node.clone(),
        thresholds: thresholds(&config)?,
        transition: config.eviction_pressure_transition_period,
        max_grace: config.eviction_max_pod_grace_period,
        local_limits: config.local_storage_capacity_isolation,
    };
    tokio::spawn(evictions.run());

    // Environment variables of a pod must not depend on how fast the agent started.
    services.synced().await;
    let mine = ListOptions::all().fields(&format!("spec.nodeName={node}"));
    let informer: Informer<Pod> = Informer::start(client.clone(), mine);
    let keep_mirrors = move || {
        tokio::spawn(mirrors.run(client, node));
    };
    tokio::select! {
        () = pods.run(informer, keep_mirrors) => {}
        () = stop.cancelled() => {}
    }
    recorder.flush(Duration::from_secs(1)).await;
    Ok(())
}

/// The runtime puts containers below the groups that the agent makes, so both must speak of groups in the same way.
/// A runtime that does not answer yet, or does not know the question, is believed.
async fn check_cgroup_driver(runtime: &dyn Runtime) -> Result<(), String> {
    let driver = runtime
        .runtime_config()
        .await
        .ok()
        .and_then(|c| c.linux)
        .map(|l| l.cgroup_driver);
    if driver == Some(steersman_cri::v1::CgroupDriver::Systemd as i32) {
        return Err("the container runtime uses the systemd cgroup driver, this agent supports only cgroupfs".into());
    }
    Ok(())
}

fn node_name(given: &str) -> Result<String, String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = if given.is_empty() { host } else { given.to_owned() }
        .trim()
        .to_lowercase();
    if name.is_empty() {
        Err("the node has no name: pass --hostname-override".into())
    } else {
        Ok(name)
    }
}

fn parse_labels(given: &[String]) -> Result<std::collections::BTreeMap<String, String>, String> {
    let split = |text: &String| {
        text.split_once('=')
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .ok_or_else(|| {
                format!("invalid argument {text:?} for \"--node-labels\" flag: malformed pair, expect string=string")
            })
    };
    given.iter().map(split).collect()
}

/// The address from which the machine would reach others.
fn default_address() -> Result<IpAddr, String> {
    let why = |e: std::io::Error| format!("the node's address is not known: pass --node-ip ({e})");
    // Connecting a datagram socket sends nothing; it only asks the kernel for a route. The address is for documentation.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(why)?;
    socket.connect("192.0.2.1:9").map_err(why)?;
    socket.local_addr().map(|a| a.ip()).map_err(why)
}

fn prepare_host(config: &KubeletConfiguration, root: &Path) -> Result<(), String> {
    for dir in [root, config.pod_logs_dir.as_path(), config.volume_plugin_dir.as_path()] {
        std::fs::create_dir_all(dir).map_err(|e| format!("failed to create directory {}: {e}", dir.display()))?;
    }
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if config.fail_swap_on && swaps.lines().count() > 1 {
        return Err(
            "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false".into(),
        );
    }
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", config.oom_score_adj.to_string()) {
        tracing::warn!(value = config.oom_score_adj, error = %e, "Failed to set the agent's oom score");
    }
    Ok(())
}

fn dns_settings(config: &KubeletConfiguration) -> Result<DnsSettings, String> {
    let host = match config.resolv_conf.as_str() {
        "" => None,
        path => Some(parse_resolv_conf(
            &std::fs::read_to_string(path).map_err(|e| format!("could not open DNS config file {path}: {e}"))?,
        )),
    };
    Ok(DnsSettings {
        cluster_dns: config.cluster_dns.clone(),
        cluster_domain: config.cluster_domain.clone(),
        host,
    })
}

/// What pods together may use of the machine: all but what is reserved for others.
fn share_of_pods(config: &KubeletConfiguration, machine: &Machine) -> NodeShare {
    let reserved = |name: &str, read: fn(&steersman_types::Quantity) -> i64| -> i64 {
        let both = [&config.kube_reserved, &config.system_reserved];
        let given = both.iter().filter_map(|r| r.get(name));
        given.map(|q| read(&steersman_types::Quantity(q.clone()))).sum()
    };
    let processes = crate::stats::machine::processes(steersman_types::jiff::Timestamp::now());
    NodeShare {
        cpu: machine
            .cpus
            .saturating_mul(1000)
            .saturating_sub(reserved("cpu", milli))
            .max(0),
        memory: machine.memory.saturating_sub(reserved("memory", value)).max(0),
        processes: processes.map(|p| p.max_pid.saturating_sub(reserved("pid", value)).max(0)),
    }
}

fn allocatable_numbers(config: &KubeletConfiguration, machine: &Machine, root: &Path) -> crate::env::Allocatable {
    let seen = NodeSeen {
        machine: machine.clone(),
        available: Available::read(root),
        ..NodeSeen::default()
    };
    let status = crate::node::status::status(&seen, config, &steersman_types::api::core::v1::NodeStatus::default());
    let numbers = allocatable(&status.capacity.unwrap_or_default(), &seen, config);
    numbers
        .into_iter()
        .map(|(name, q)| (name.clone(), if name == "cpu" { milli(&q) } else { value(&q) }))
        .collect()
}

fn gate(config: &KubeletConfiguration, client: &Client) -> Result<Gate, String> {
    let flags = ServingFlags {
        bind_address: config.address,
        secure_port: Some(config.port),
        cert_dir: String::new(),
        tls_cert_file: None,
        tls_private_key_file: None,
        authentication_kubeconfig: None,
        authorization_kubeconfig: None,
        authentication_skip_lookup: true,
        authorization_always_allow_paths: Vec::new(),
        client_ca_file: config.authentication.x509.client_ca_file.clone(),
        requestheader_client_ca_file: None,
        requestheader_allowed_names: Vec::new(),
        requestheader_username_headers: Vec::new(),
        requestheader_group_headers: Vec::new(),
        requestheader_extra_headers_prefix: Vec::new(),
    };
    let tokens = config.authentication.webhook.enabled.then(|| client.clone());
    Gate::new(&flags, tokens, Some(client.clone()), client.clone())
}
