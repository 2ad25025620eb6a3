//! The Pod Security Standards: what a pod must not do at each level, by the version of the standard. Pure.
//!
//! A check is a function and a line in [`CHECKS`]; the texts are upstream's.

use std::collections::BTreeSet;

use serde_json::Value;
use steersman_auth::lister::{items, text};

use super::policy::{Level, Standard};

/// Why a pod breaks a check: the reason, and the details in parentheses.
pub(super) type Fault = (String, String);

/// A check of one level, in the versions from `since` on. A restricted check may stand in for the baseline one that it
/// includes.
struct Check {
    name: &'static str,
    level: Level,
    since: u32,
    instead_of: &'static str,
    run: fn(&Pod<'_>) -> Option<Fault>,
}

const fn baseline(name: &'static str, since: u32, run: fn(&Pod<'_>) -> Option<Fault>) -> Check {
    Check {
        name,
        level: Level::Baseline,
        since,
        instead_of: "",
        run,
    }
}

const fn restricted(
    name: &'static str,
    since: u32,
    instead_of: &'static str,
    run: fn(&Pod<'_>) -> Option<Fault>,
) -> Check {
    Check {
        name,
        level: Level::Restricted,
        since,
        instead_of,
        run,
    }
}

/// In upstream's order: by level, then by name.
const CHECKS: &[Check] = &[
    baseline("appArmorProfile", 0, app_armor),
    baseline("capabilities_baseline", 0, capabilities),
    baseline("hostNamespaces", 0, host_namespaces),
    baseline("hostPathVolumes", 0, host_path),
    baseline("hostPorts", 0, host_ports),
    baseline("hostProbesAndHostLifecycle", 34, probe_hosts),
    baseline("privileged", 0, privileged),
    baseline("procMount", 0, proc_mount_outside_user_namespaces),
    baseline("seLinuxOptions", 0, selinux),
    baseline("seccompProfile_baseline", 0, seccomp),
    baseline("sysctls", 0, sysctls),
    baseline("windowsHostProcess", 0, host_process),
    restricted("allowPrivilegeEscalation", 8, "", escalation),
    restricted(
        "capabilities_restricted",
        22,
        "capabilities_baseline",
        capabilities_restricted,
    ),
    restricted("procMount_restricted", 35, "procMount", proc_mount),
    restricted("restrictedVolumes", 0, "hostPathVolumes", volumes),
    restricted("runAsNonRoot", 0, "", non_root),
    restricted("runAsUser", 23, "", root_user),
    restricted(
        "seccompProfile_restricted",
        19,
        "seccompProfile_baseline",
        seccomp_restricted,
    ),
];

/// The version that `latest` stands for.
const LATEST: u32 = 36;

/// A pod under one version of the standards.
struct Pod<'a> {
    pod: &'a Value,
    minor: u32,
}

/// Everything in the pod that breaks the standard.
pub(super) fn faults(standard: Standard, pod: &Value) -> Vec<Fault> {
    let minor = standard.minor.unwrap_or(LATEST).min(LATEST);
    let applies = |c: &&Check| c.level <= standard.level && c.since <= minor;
    let replaced: Vec<&str> = CHECKS.iter().filter(applies).map(|c| c.instead_of).collect();
    let view = Pod { pod, minor };
    let checks = CHECKS.iter().filter(applies).filter(|c| !replaced.contains(&c.name));
    checks.filter_map(|check| (check.run)(&view)).collect()
}

/// `reason (details), reason (details)`.
pub(super) fn details(faults: &[Fault]) -> String {
    let shown = faults.iter().map(|(reason, detail)| match detail.as_str() {
        "" => reason.clone(),
        _ => format!("{reason} ({detail})"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

impl Pod<'_> {
    fn containers(&self) -> impl Iterator<Item = &Value> {
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(|list| items(self.pod, &format!("/spec/{list}")))
    }

    /// Names of the containers for which `bad` holds.
    fn named(&self, bad: impl Fn(&Value) -> bool) -> Vec<&str> {
        self.containers().filter(|c| bad(c)).map(|c| text(c, "/name")).collect()
    }

    fn at(&self, pointer: &str) -> Option<&Value> {
        self.pod.pointer(pointer).filter(|v| !v.is_null())
    }

    fn is_windows(&self) -> bool {
        text(self.pod, "/spec/os/name") == "windows" && self.minor >= 25
    }

    /// Root in a user namespace is nobody outside.
    fn has_user_namespace(&self) -> bool {
        self.at("/spec/hostUsers") == Some(&Value::Bool(false)) && self.minor >= 35
    }

    /// `pod and containers "a", "b"`: who sets the security context's `field` badly.
    fn setters(&self, field: &str, bad: impl Fn(&Value) -> bool) -> Vec<String> {
        let pointer = format!("/securityContext/{field}");
        let is_bad = |holder: &Value| holder.pointer(&pointer).is_some_and(|v| !v.is_null() && bad(v));
        let whole = self.pod.get("spec").is_some_and(is_bad);
        let names = self.named(is_bad);
        let mut setters: Vec<String> = whole.then(|| "pod".to_owned()).into_iter().collect();
        if !names.is_empty() {
            setters.push(these("container", &names));
        }
        setters
    }
}

fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|n| format!("\"{}\"", n.as_ref())).collect();
    names.join(", ")
}

fn plural(word: &str, count: usize) -> String {
    format!("{word}{}", if count == 1 { "" } else { "s" })
}

/// `container "a"`, `containers "a", "b"`.
fn these(word: &str, names: &[&str]) -> String {
    format!("{} {}", plural(word, names.len()), quoted(names))
}

fn fault(reason: &str, detail: String) -> Option<Fault> {
    Some((reason.to_owned(), detail))
}

fn strings<'a>(container: &'a Value, pointer: &str) -> Vec<&'a str> {
    items(container, pointer).iter().filter_map(Value::as_str).collect()
}

fn app_armor(pod: &Pod<'_>) -> Option<Fault> {
    let mut values = BTreeSet::new();
    let bad = |kind: &str| !matches!(kind, "RuntimeDefault" | "Localhost");
    let mut setters = pod.setters("appArmorProfile", |p| bad(text(p, "/type")));
    let holders = pod.containers().chain(pod.pod.get("spec"));
    for profile in holders.filter_map(|h| h.pointer("/securityContext/appArmorProfile")) {
        if profile.is_object() && bad(text(profile, "/type")) {
            values.insert(text(profile, "/type").to_owned());
        }
    }
    let annotations = pod.at("/metadata/annotations").and_then(Value::as_object);
    let notes: BTreeSet<String> = annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
        .filter(|(_, v)| !(v.is_empty() || *v == "runtime/default" || v.starts_with("localhost/")))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !notes.is_empty() {
        setters.push(plural("annotation", notes.len()));
    }
    if setters.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(notes).collect();
    let detail = format!(
        "{} must not set AppArmor profile type to {}",
        setters.join(" and "),
        quoted(&values)
    );
    fault(&plural("forbidden AppArmor profile", values.len()), detail)
}

const ADD: &str = "/securityContext/capabilities/add";

/// Containers that add capabilities that are not `allowed`, and which.
fn added<'a>(pod: &'a Pod<'_>, allowed: fn(&str) -> bool) -> Option<String> {
    let names = pod.named(|c| strings(c, ADD).iter().any(|a| !allowed(a)));
    let all: BTreeSet<&'a str> = pod
        .containers()
        .flat_map(|c| strings(c, ADD))
        .filter(|a| !allowed(a))
        .collect();
    (!names.is_empty()).then(|| {
        let who = these("container", &names);
        format!(
            "{who} must not include {} in securityContext.capabilities.add",
            quoted(all)
        )
    })
}

fn capabilities(pod: &Pod<'_>) -> Option<Fault> {
    let allowed = |name: &str| {
        matches!(
            name,
            "AUDIT_WRITE"
                | "CHOWN"
                | "DAC_OVERRIDE"
                | "FOWNER"
                | "FSETID"
                | "KILL"
                | "MKNOD"
                | "NET_BIND_SERVICE"
                | "SETFCAP"
                | "SETGID"
                | "SETPCAP"
                | "SETUID"
                | "SYS_CHROOT"
        )
    };
    fault("non-default capabilities", added(pod, allowed)?)
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<Fault> {
    if pod.is_windows() {
        return None;
    }
    let keeping = pod.named(|c| !strings(c, "/securityContext/capabilities/drop").contains(&"ALL"));
    let kept = (!keeping.is_empty()).then(|| {
        format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            these("container", &keeping)
        )
    });
    let details: Vec<String> = kept
        .into_iter()
        .chain(added(pod, |a| a == "NET_BIND_SERVICE"))
        .collect();
    if details.is_empty() {
        return None;
    }
    fault("unrestricted capabilities", details.join("; "))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Fault> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
    let set = set.filter(|field| pod.at(&format!("/spec/{field}")) == Some(&Value::Bool(true)));
    let set: Vec<String> = set.map(|field| format!("{field}=true")).collect();
    if set.is_empty() {
        None
    } else {
        fault("host namespaces", set.join(", "))
    }
}

fn volume_list<'a>(pod: &'a Pod<'_>) -> &'a [Value] {
    items(pod.pod, "/spec/volumes")
}

fn has(volume: &Value, kind: &str) -> bool {
    volume.get(kind).is_some_and(|v| !v.is_null())
}

fn host_path(pod: &Pod<'_>) -> Option<Fault> {
    let bad = volume_list(pod).iter().filter(|v| has(v, "hostPath"));
    let names: Vec<&str> = bad.map(|v| text(v, "/name")).collect();
    if names.is_empty() {
        None
    } else {
        fault("hostPath volumes", these("volume", &names))
    }
}

fn volumes(pod: &Pod<'_>) -> Option<Fault> {
    const FINE: &[&str] = &[
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let bad: Vec<&Value> = volume_list(pod)
        .iter()
        .filter(|v| !FINE.iter().any(|kind| has(v, kind)))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<&str> = bad.iter().map(|v| text(v, "/name")).collect();
    let kind = |volume: &&Value| {
        let fields = volume.as_object().into_iter().flatten();
        let kind = fields
            .filter(|(key, v)| *key != "name" && !v.is_null())
            .map(|(key, _)| key.as_str())
            .next();
        kind.unwrap_or("unknown").to_owned()
    };
    let kinds: BTreeSet<String> = bad.iter().map(kind).collect();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    let detail = format!(
        "{} {uses} {} {}",
        these("volume", &names),
        plural("restricted volume type", kinds.len()),
        quoted(kinds)
    );
    fault("restricted volume types", detail)
}

fn host_ports(pod: &Pod<'_>) -> Option<Fault> {
    let ports = |c: &Value| -> Vec<i64> {
        let all = items(c, "/ports").iter().filter_map(|p| p["hostPort"].as_i64());
        all.filter(|port| *port != 0).collect()
    };
    let names = pod.named(|c| !ports(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = pod.containers().flat_map(ports).map(|p| p.to_string()).collect();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    let shown: Vec<String> = all.into_iter().collect();
    let detail = format!(
        "{} {uses} {} {}",
        these("container", &names),
        plural("hostPort", shown.len()),
        shown.join(", ")
    );
    fault("hostPort", detail)
}

fn probe_hosts(pod: &Pod<'_>) -> Option<Fault> {
    let hosts = |c: &Value| -> Vec<String> {
        let handlers = [
            "/livenessProbe",
            "/readinessProbe",
            "/startupProbe",
            "/lifecycle/postStart",
            "/lifecycle/preStop",
        ];
        let both = handlers
            .iter()
            .flat_map(|h| [format!("{h}/httpGet/host"), format!("{h}/tcpSocket/host")]);
        let all = both.map(|pointer| text(c, &pointer).to_owned());
        all.filter(|host| !host.is_empty()).collect()
    };
    let names: BTreeSet<&str> = pod.named(|c| !hosts(c).is_empty()).into_iter().collect();
    if names.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = pod.containers().flat_map(hosts).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    let detail = format!(
        "{} {uses} {} {}",
        these("container", &names),
        plural("probe or lifecycle host", all.len()),
        quoted(all)
    );
    fault("probe or lifecycle host", detail)
}

fn is(container: &Value, field: &str, value: bool) -> bool {
    container.pointer(&format!("/securityContext/{field}")) == Some(&Value::Bool(value))
}

fn privileged(pod: &Pod<'_>) -> Option<Fault> {
    let names = pod.named(|c| is(c, "privileged", true));
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.privileged=true",
        these("container", &names)
    );
    fault("privileged", detail)
}

fn proc_mount_outside_user_namespaces(pod: &Pod<'_>) -> Option<Fault> {
    if pod.has_user_namespace() {
        None
    } else {
        proc_mount(pod)
    }
}

fn proc_mount(pod: &Pod<'_>) -> Option<Fault> {
    let kind = |c: &Value| text(c, "/securityContext/procMount").to_owned();
    let bad = |kind: &str| !kind.is_empty() && kind != "Default";
    let names = pod.named(|c| bad(&kind(c)));
    if names.is_empty() {
        return None;
    }
    let kinds: BTreeSet<String> = pod.containers().map(kind).filter(|k| bad(k)).collect();
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        these("container", &names),
        quoted(kinds)
    );
    fault("procMount", detail)
}

fn selinux(pod: &Pod<'_>) -> Option<Fault> {
    let engine = pod.minor >= 31;
    let bad_type = move |options: &Value| match text(options, "/type") {
        "" | "container_t" | "container_init_t" | "container_kvm_t" => false,
        "container_engine_t" => !engine,
        _ => true,
    };
    let set = |options: &Value, field: &str| !text(options, field).is_empty();
    let setters = pod.setters("seLinuxOptions", |o| bad_type(o) || set(o, "/user") || set(o, "/role"));
    if setters.is_empty() {
        return None;
    }
    let holders = pod.containers().chain(pod.pod.get("spec"));
    let all: Vec<&Value> = holders
        .filter_map(|h| h.pointer("/securityContext/seLinuxOptions"))
        .collect();
    let types: BTreeSet<&str> = all.iter().filter(|o| bad_type(o)).map(|o| text(o, "/type")).collect();
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", types.len()), quoted(types)));
    }
    for field in ["user", "role"] {
        if all.iter().any(|o| set(o, &format!("/{field}"))) {
            what.push(format!("{field} may not be set"));
        }
    }
    let detail = format!(
        "{} set forbidden securityContext.seLinuxOptions: {}",
        setters.join(" and "),
        what.join("; ")
    );
    fault("seLinuxOptions", detail)
}

fn bad_seccomp(profile: &Value) -> bool {
    !matches!(text(profile, "/type"), "RuntimeDefault" | "Localhost")
}

fn seccomp(pod: &Pod<'_>) -> Option<Fault> {
    if pod.minor < 19 {
        return seccomp_annotations(pod);
    }
    let setters = pod.setters("seccompProfile", bad_seccomp);
    if setters.is_empty() {
        return None;
    }
    let holders = pod.containers().chain(pod.pod.get("spec"));
    let profiles = holders.filter_map(|h| h.pointer("/securityContext/seccompProfile"));
    let kinds: BTreeSet<&str> = profiles.filter(|p| bad_seccomp(p)).map(|p| text(p, "/type")).collect();
    let detail = format!(
        "{} must not set securityContext.seccompProfile.type to {}",
        setters.join(" and "),
        quoted(kinds)
    );
    fault("seccompProfile", detail)
}

fn seccomp_annotations(pod: &Pod<'_>) -> Option<Fault> {
    let names = pod
        .containers()
        .map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", text(c, "/name")));
    let keys = ["seccomp.security.alpha.kubernetes.io/pod".to_owned()]
        .into_iter()
        .chain(names);
    let bad: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = pod.at("/metadata/annotations")?.get(&key)?.as_str()?;
            let fine = matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!fine).then(|| format!("{key}={value:?}"))
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    let shown: Vec<String> = bad.into_iter().collect();
    let detail = format!("forbidden {} {}", plural("annotation", shown.len()), shown.join(", "));
    fault("seccompProfile", detail)
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<Fault> {
    if pod.is_windows() {
        return None;
    }
    if let Some(explicit) = seccomp(pod) {
        return Some(explicit);
    }
    if pod.at("/spec/securityContext/seccompProfile").is_some() {
        return None;
    }
    let names = pod.named(|c| c.pointer("/securityContext/seccompProfile").is_none_or(Value::is_null));
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        these("container", &names)
    );
    fault("seccompProfile", detail)
}

fn sysctls(pod: &Pod<'_>) -> Option<Fault> {
    let minor = pod.minor;
    let allowed = |name: &str| match name {
        "kernel.shm_rmid_forced"
        | "net.ipv4.ip_local_port_range"
        | "net.ipv4.tcp_syncookies"
        | "net.ipv4.ping_group_range"
        | "net.ipv4.ip_unprivileged_port_start" => true,
        "net.ipv4.ip_local_reserved_ports" => minor >= 27,
        "net.ipv4.tcp_keepalive_time"
        | "net.ipv4.tcp_fin_timeout"
        | "net.ipv4.tcp_keepalive_intvl"
        | "net.ipv4.tcp_keepalive_probes" => minor >= 29,
        "net.ipv4.tcp_rmem" | "net.ipv4.tcp_wmem" => minor >= 32,
        _ => false,
    };
    let all = items(pod.pod, "/spec/securityContext/sysctls")
        .iter()
        .map(|s| text(s, "/name"));
    let bad: Vec<&str> = all.filter(|name| !allowed(name)).collect();
    if bad.is_empty() {
        None
    } else {
        fault("forbidden sysctls", bad.join(", "))
    }
}

fn host_process(pod: &Pod<'_>) -> Option<Fault> {
    let setters = pod.setters("windowsOptions", |o| o["hostProcess"] == true);
    if setters.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.windowsOptions.hostProcess=true",
        setters.join(" and ")
    );
    fault("hostProcess", detail)
}

fn escalation(pod: &Pod<'_>) -> Option<Fault> {
    if pod.is_windows() {
        return None;
    }
    let names = pod.named(|c| !is(c, "allowPrivilegeEscalation", false));
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must set securityContext.allowPrivilegeEscalation=false",
        these("container", &names)
    );
    fault("allowPrivilegeEscalation != false", detail)
}

fn non_root(pod: &Pod<'_>) -> Option<Fault> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.has_user_namespace() {
        return None;
    }
    let setters = pod.setters("runAsNonRoot", |v| v == false);
    if !setters.is_empty() {
        let detail = format!(
            "{} must not set securityContext.runAsNonRoot=false",
            setters.join(" and ")
        );
        return fault(REASON, detail);
    }
    if pod.at("/spec/securityContext/runAsNonRoot") == Some(&Value::Bool(true)) {
        return None;
    }
    let names = pod.named(|c| !is(c, "runAsNonRoot", true));
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.runAsNonRoot=true",
        these("container", &names)
    );
    fault(REASON, detail)
}

fn root_user(pod: &Pod<'_>) -> Option<Fault> {
    if pod.has_user_namespace() {
        return None;
    }
    let setters = pod.setters("runAsUser", |v| v.as_i64() == Some(0));
    if setters.is_empty() {
        return None;
    }
    fault(
        "runAsUser=0",
        format!("{} must not set runAsUser=0", setters.join(" and ")),
    )
}
