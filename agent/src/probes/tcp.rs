//! Probes that connect: plain TCP, and the gRPC health protocol.

use std::time::Duration;

use super::Outcome;

/// Succeeds when a connection can be opened.
pub async fn probe(host: &str, port: u16, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, tokio::net::TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(e)) => Outcome::Failure(refusal(host, port, &e)),
        Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", address(host, port))),
    }
}

/// `host:port`, with brackets around IPv6 addresses.
#[must_use]
pub fn address(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Go's words for a connection that failed.
#[must_use]
pub fn refusal(host: &str, port: u16, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        std::io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {}: connect: {why}", address(host, port))
}

/// `grpc.health.v1.Health/Check`: succeeds when the service says that it serves.
pub async fn grpc(host: &str, port: u16, service: &str, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, steersman_cri::health::check(&address(host, port), service)).await {
        Ok(Ok(true)) => Outcome::Success,
        Ok(Ok(false)) => Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".into()),
        Ok(Err(e)) => Outcome::Failure(e),
        Err(_) => {
            let text = format!(
                "timeout: failed to connect service {:?} within {}s",
                address(host, port),
                timeout.as_secs()
            );
            Outcome::Failure(format!("{text}: context deadline exceeded"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_port_succeeds_and_a_closed_one_is_refused() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(probe("127.0.0.1", port, Duration::from_secs(1)).await, Outcome::Success);
        drop(listener);
        let text = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(
            probe("127.0.0.1", port, Duration::from_secs(1)).await,
            Outcome::Failure(text)
        );
    }
}
