//! What the recorder sends: a creation first, then counts on the same object, and a new one when that is gone.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use steersman_runtime::Client;
use steersman_runtime::client::{BodyStream, BoxFuture, Transport, TransportError};
use steersman_runtime::events::{EventType, Recorder};
use steersman_types::api::core::v1::ObjectReference;

#[derive(Default)]
struct Log {
    calls: Mutex<Vec<(String, String, Value)>>,
    forget: Mutex<bool>,
}

struct Server(Arc<Log>);

impl Transport for Server {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<BodyStream>, TransportError>> {
        let log = self.0.clone();
        Box::pin(async move {
            let body: Value = serde_json::from_slice(request.body())?;
            let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
            let gone = method == "PATCH" && *log.forget.lock();
            log.calls.lock().push((method, path, body.clone()));
            let (code, answer) = if gone {
                (
                    404,
                    json!({"kind": "Status", "code": 404, "reason": "NotFound", "message": "gone"}),
                )
            } else {
                let name = body["metadata"]["name"].as_str().unwrap_or("web.1").to_owned();
                (200, json!({"metadata": {"name": name}, "involvedObject": {}}))
            };
            let stream: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::from(answer.to_string()))]));
            let mut response = Response::new(stream);
            *response.status_mut() = http::StatusCode::from_u16(code)?;
            Ok(response)
        })
    }
}

#[tokio::test]
async fn a_repeated_event_is_counted_and_recreated_when_it_has_expired() {
    let log = Arc::new(Log::default());
    let recorder = Recorder::new(Client::new(Arc::new(Server(log.clone())), "test"), "tester", "host-1");
    let about = ObjectReference {
        name: Some("web".into()),
        namespace: Some("ns".into()),
        ..Default::default()
    };
    for _ in 0..2 {
        recorder.event(&about, EventType::Warning, "Testing", "it happened");
    }
    recorder.flush(Duration::from_secs(5)).await;
    *log.forget.lock() = true;
    recorder.event(&about, EventType::Warning, "Testing", "it happened");
    recorder.flush(Duration::from_secs(5)).await;
    let calls = log.calls.lock().clone();
    let methods: Vec<&str> = calls.iter().map(|(m, _, _)| m.as_str()).collect();
    assert_eq!(methods, ["POST", "PATCH", "PATCH", "POST"]);
    let (_, path, first) = &calls[0];
    assert_eq!(path, "/api/v1/namespaces/ns/events");
    assert!(
        first["metadata"]["name"]
            .as_str()
            .is_some_and(|n| n.starts_with("web."))
    );
    assert_eq!(first["source"], json!({"component": "tester", "host": "host-1"}));
    assert_eq!(
        (&first["reportingComponent"], &first["count"], &first["type"]),
        (&json!("tester"), &json!(1), &json!("Warning"))
    );
    assert_eq!(calls[1].2["count"], 2);
    assert_eq!(calls[3].2["count"], 3);
}
