//! `/livez`, `/readyz`, `/healthz`: named checks, each also at its own path.

use std::sync::atomic::{AtomicBool, Ordering};

use http::Response;

use crate::api::Api;
use crate::body::Body;
use crate::query::Query;
use crate::respond;

/// Facts that the checks look at.
#[derive(Default)]
pub struct Health {
    /// The objects that every cluster starts with are there.
    pub bootstrapped: AtomicBool,
    /// The server has been told to stop.
    pub stopping: AtomicBool,
}

/// One check.
struct Check {
    name: &'static str,
    /// Only `/readyz` asks it.
    readiness: bool,
    run: fn(&Api) -> Result<(), String>,
}

/// In the order in which `?verbose` lists them. The names are upstream's.
const CHECKS: &[Check] = &[
    Check {
        name: "ping",
        readiness: false,
        run: |_| Ok(()),
    },
    Check {
        name: "log",
        readiness: false,
        run: |_| Ok(()),
    },
    Check {
        name: "etcd",
        readiness: false,
        run: etcd,
    },
    Check {
        name: "etcd-readiness",
        readiness: true,
        run: etcd,
    },
    Check {
        name: "informer-sync",
        readiness: true,
        run: synced,
    },
    Check {
        name: "poststarthook/start-system-namespaces-controller",
        readiness: false,
        run: bootstrapped,
    },
    Check {
        name: "poststarthook/start-cluster-authentication-info-controller",
        readiness: false,
        run: bootstrapped,
    },
    Check {
        name: "poststarthook/start-kubernetes-service-cidr-controller",
        readiness: false,
        run: bootstrapped,
    },
    Check {
        name: "poststarthook/bootstrap-controller",
        readiness: false,
        run: bootstrapped,
    },
    Check {
        name: "poststarthook/rbac/bootstrap-roles",
        readiness: false,
        run: bootstrapped,
    },
    Check {
        name: "poststarthook/scheduling/bootstrap-system-priority-classes",
        readiness: false,
        run: bootstrapped,
    },
    Check {
        name: "poststarthook/storage-readiness",
        readiness: false,
        run: synced,
    },
    Check {
        name: "shutdown",
        readiness: true,
        run: running,
    },
];

fn etcd(api: &Api) -> Result<(), String> {
    if api.store_health.is_good() {
        Ok(())
    } else {
        Err("etcd failed: reason withheld".into())
    }
}

fn synced(api: &Api) -> Result<(), String> {
    if api.cache.is_ready() {
        Ok(())
    } else {
        Err("the watch cache is not loaded".into())
    }
}

fn bootstrapped(api: &Api) -> Result<(), String> {
    if api.health.bootstrapped.load(Ordering::Acquire) {
        Ok(())
    } else {
        Err("not finished".into())
    }
}

fn running(api: &Api) -> Result<(), String> {
    if api.health.stopping.load(Ordering::Acquire) {
        Err("process is shutting down".into())
    } else {
        Ok(())
    }
}

/// Answers a path below one of the three endpoints; `None` when it is not one.
pub fn answer(api: &Api, path: &str, query: &Query) -> Option<Response<Body>> {
    let (endpoint, single) = match path.trim_matches('/').split_once('/') {
        Some((endpoint, single)) => (endpoint, Some(single)),
        None => (path.trim_matches('/'), None),
    };
    if !matches!(endpoint, "livez" | "readyz" | "healthz") {
        return None;
    }
    let asked = CHECKS.iter().filter(|check| endpoint == "readyz" || !check.readiness);
    if let Some(single) = single {
        let check = asked.into_iter().find(|check| check.name == single)?;
        return Some(match (check.run)(api) {
            Ok(()) => respond::text(200, "ok"),
            Err(why) => {
                tracing::warn!(check = check.name, %why, "health check failed");
                respond::text(500, format!("internal server error: {why}\n"))
            }
        });
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut lines = String::new();
    let mut failed = Vec::new();
    for check in asked {
        if excluded.contains(&check.name) {
            lines.push_str(&format!("[+]{} excluded: ok\n", check.name));
            continue;
        }
        match (check.run)(api) {
            Ok(()) => lines.push_str(&format!("[+]{} ok\n", check.name)),
            Err(why) => {
                tracing::debug!(check = check.name, %why, "health check failed");
                lines.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
                failed.push(check.name);
            }
        }
    }
    let unknown: Vec<&str> = excluded
        .into_iter()
        .filter(|name| !CHECKS.iter().any(|check| check.name == *name))
        .collect();
    if !unknown.is_empty() {
        lines.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            unknown.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ")
        ));
    }
    if !failed.is_empty() {
        tracing::warn!(endpoint, checks = failed.join(","), "health checks failed");
        return Some(respond::text(500, format!("{lines}{endpoint} check failed\n")));
    }
    if query.get("verbose").is_some() {
        return Some(respond::text(200, format!("{lines}{endpoint} check passed\n")));
    }
    Some(respond::text(200, "ok"))
}
