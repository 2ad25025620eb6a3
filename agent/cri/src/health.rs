//! The gRPC health protocol, for probes: it lives here because only this crate knows gRPC.

use tonic::transport::Endpoint;

mod v1 {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]
    tonic::include_proto!("grpc.health.v1");
}

use v1::health_check_response::ServingStatus;
use v1::{HealthCheckRequest, health_client::HealthClient};

/// Asks the server at `address` (`host:port`) whether `service` (empty: the server as a whole) serves. No deadline of
/// its own.
///
/// # Errors
/// When the server cannot be reached, does not speak the protocol or does not know the service. One line.
pub async fn check(address: &str, service: &str) -> Result<bool, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
    let channel = endpoint.connect().await.map_err(|e| {
        let cause = std::error::Error::source(&e)
            .map(ToString::to_string)
            .unwrap_or_default();
        format!("error: failed to connect service at {address:?}: {e}: {cause}")
    })?;
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel)
        .check(request)
        .await
        .map_err(|e| match e.code() {
            tonic::Code::Unimplemented => {
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()
            }
            _ => format!("error: health rpc probe failed: {}", e.message()),
        })?;
    Ok(answer.into_inner().status == ServingStatus::Serving as i32)
}
