//! `/healthz` and `/livez` (port 10256): what load balancers and cluster autoscalers ask.
//!
//! Alive: no change has waited longer than a minute for its transaction. Healthy: alive, and the node is not about to be
//! deleted. The body is upstream's; both families are written together, so they have one state.

use http::StatusCode;
use parking_lot::Mutex;
use serde_json::json;
use steersman_types::jiff::Timestamp;

/// Twice upstream's default sync period.
const PATIENCE: f64 = 60.0;

struct State {
    /// Seconds since 1970; 0: not yet.
    synced: f64,
    /// Since when a change has been waiting.
    pending: Option<f64>,
    eligible: bool,
}

impl State {
    fn is_alive(&self, now: f64) -> bool {
        self.synced > 0.0 && self.pending.is_none_or(|since| now - since < PATIENCE)
    }
}

/// Shared between the loop and the port.
pub struct Health(Mutex<State>);

impl Default for Health {
    fn default() -> Self {
        Self(Mutex::new(State {
            synced: 0.0,
            pending: None,
            eligible: true,
        }))
    }
}

impl Health {
    /// Rules were written.
    pub fn synced(&self, now: f64) {
        let mut state = self.0.lock();
        state.synced = now;
        state.pending = None;
    }

    /// Rules ought to be written.
    pub fn pending(&self, now: f64) {
        self.0.lock().pending.get_or_insert(now);
    }

    /// Whether load balancers shall send traffic here.
    pub fn eligible(&self, eligible: bool) {
        self.0.lock().eligible = eligible;
    }

    /// Whether the rules are as the cluster is.
    #[must_use]
    pub fn is_alive(&self, now: f64) -> bool {
        self.0.lock().is_alive(now)
    }

    /// The answer to `path` at `now`.
    #[must_use]
    pub fn answer(&self, path: &str, now: f64) -> (StatusCode, &'static str, String) {
        const JSON: &str = "application/json";
        let state = self.0.lock();
        let alive = state.is_alive(now);
        let (good, eligible) = match path {
            "/healthz" => (alive && state.eligible, Some(state.eligible)),
            "/livez" => (alive, None),
            _ => {
                return (
                    StatusCode::NOT_FOUND,
                    "text/plain; charset=utf-8",
                    "404 page not found\n".to_owned(),
                );
            }
        };
        // As in upstream, what is reported as last update of a healthy proxy is now: nothing was missed until then.
        let updated = text(if good { now } else { state.synced });
        let mut body = json!({"lastUpdated": updated, "currentTime": text(now), "healthy": alive});
        let of_family = json!({"lastUpdated": text(state.synced), "healthy": alive});
        body["status"] = json!({"IPv4": of_family, "IPv6": of_family});
        if let Some(eligible) = eligible {
            body["nodeEligible"] = eligible.into();
        }
        (
            if good {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            },
            JSON,
            body.to_string(),
        )
    }
}

#[allow(clippy::cast_possible_truncation)] // whole seconds of a clock
fn text(seconds: f64) -> String {
    Timestamp::from_second(seconds as i64)
        .map(|t| t.to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_first_rules_it_is_unhealthy() {
        let health = Health::default();
        assert_eq!(health.answer("/healthz", 5.0).0, StatusCode::SERVICE_UNAVAILABLE);
        health.synced(6.0);
        assert_eq!(health.answer("/healthz", 7.0).0, StatusCode::OK);
    }

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy() {
        let health = Health::default();
        health.synced(1.0);
        health.pending(100.0);
        assert_eq!(health.answer("/livez", 101.0).0, StatusCode::OK);
        assert_eq!(health.answer("/livez", 161.0).0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_leaving_node_is_alive_but_not_eligible() {
        let health = Health::default();
        health.synced(1.0);
        health.eligible(false);
        let (code, _, body) = health.answer("/healthz", 2.0);
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            body.contains(r#""nodeEligible":false"#) && body.contains(r#""healthy":true"#),
            "{body}"
        );
        assert_eq!(health.answer("/livez", 2.0).0, StatusCode::OK);
    }
}
