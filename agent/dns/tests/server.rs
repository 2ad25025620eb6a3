//! The server on real sockets (loopback), with a cluster that is a fixed list.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use http::{Request, Response};
use serde_json::json;
use steersman_dns::forward::{Forwarder, Route};
use steersman_dns::metrics::DnsMetrics;
use steersman_dns::server::Server;
use steersman_dns::source::Cluster;
use steersman_runtime::client::{BodyStream, Transport, TransportError};
use steersman_runtime::informer::Informer;
use steersman_runtime::metrics::Metrics;
use steersman_runtime::{Client, ListOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

/// Lists one Service; watches say nothing.
struct Fixed;

impl Transport for Fixed {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Response<BodyStream>, TransportError>> + Send + '_>> {
        let uri = request.uri().to_string();
        Box::pin(async move {
            let body: BodyStream = if uri.contains("watch=") {
                futures::stream::pending().boxed()
            } else {
                let items = if uri.contains("endpointslices") {
                    json!([])
                } else {
                    json!([{"metadata": {"namespace": "default", "name": "web", "resourceVersion": "1"},
                        "spec": {"clusterIP": "10.232.0.5", "clusterIPs": ["10.232.0.5"]}}])
                };
                let text =
                    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
                        .to_string();
                futures::stream::iter([Ok(Bytes::from(text))]).boxed()
            };
            Ok(Response::new(body))
        })
    }
}

async fn serve(upstreams: Vec<SocketAddr>) -> (SocketAddr, CancellationToken) {
    let client = Client::new(Arc::new(Fixed), "test");
    let (services, slices) = (
        Informer::start(client.clone(), ListOptions::all()),
        Informer::start(client, ListOptions::all()),
    );
    tokio::join!(services.synced(), slices.synced());
    let cluster = Cluster::new(services, slices);
    let domain = Name::from_ascii("cluster.local.").unwrap();
    let server = Arc::new(Server::new(
        cluster,
        domain,
        Forwarder::new(vec![Route::new(Name::root(), upstreams)]),
        DnsMetrics::new(&Metrics::new()),
    ));
    let stop = CancellationToken::new();
    let address = server.listen("127.0.0.1:0".parse().unwrap(), &stop).await.unwrap();
    (address, stop)
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

async fn udp(server: SocketAddr, query: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(query, server).await.unwrap();
    let mut buffer = vec![0; 4096];
    let length = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(buffer[..2], query[..2], "the query's own identifier");
    Message::from_vec(&buffer[..length]).unwrap()
}

#[tokio::test]
async fn udp_and_tcp_give_the_same_answer() {
    let (server, _stop) = serve(Vec::new()).await;
    let query = question("web.default.svc.cluster.local.");
    let over_udp = udp(server, &query).await;
    assert_eq!(over_udp.answers.len(), 1);

    let mut stream = TcpStream::connect(server).await.unwrap();
    // Two queries on one connection, the second in two pieces.
    for pieces in [vec![query.clone()], vec![query[..5].to_vec(), query[5..].to_vec()]] {
        stream.write_u16(u16::try_from(query.len()).unwrap()).await.unwrap();
        for piece in pieces {
            stream.write_all(&piece).await.unwrap();
            stream.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap(), over_udp);
    }
}

#[tokio::test]
async fn garbage_does_not_stop_the_server() {
    let (server, _stop) = serve(Vec::new()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for garbage in [&[][..], &[0; 3], &[0xff; 12], &[0x55; 600]] {
        socket.send_to(garbage, server).await.unwrap();
    }
    assert_eq!(
        udp(server, &question("web.default.svc.cluster.local."))
            .await
            .answers
            .len(),
        1
    );
}

#[tokio::test]
async fn outside_names_are_asked_upstream_under_another_identifier() {
    // The upstream server is one of ours: to it, everything outside does not exist.
    let (upstream, _stop) = serve(Vec::new()).await;
    // The first upstream does not answer in time.
    let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (server, _stop) = serve(vec![deaf.local_addr().unwrap(), upstream]).await;
    let answer = udp(server, &question("example.org.")).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    // The one that answers is asked first from then on.
    let started = std::time::Instant::now();
    udp(server, &question("example.com.")).await;
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(
        udp(server, &question("web.default.svc.cluster.local."))
            .await
            .answers
            .len(),
        1
    );
}

#[tokio::test]
async fn a_client_is_told_when_no_upstream_answers() {
    // Nobody listens there any more.
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (server, _stop) = serve(vec![gone]).await;
    let answer = udp(server, &question("example.org.")).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(answer.queries.len(), 1);
}

#[tokio::test]
async fn a_guessed_answer_is_passed_over_and_the_real_one_taken() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (server, _stop) = serve(vec![upstream.local_addr().unwrap()]).await;
    let serving = async {
        let mut buffer = vec![0; 512];
        let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
        let mut answer = buffer[..length].to_vec();
        answer[2] |= 0x80;
        let mut guessed = answer.clone();
        guessed[1] = guessed[1].wrapping_add(1);
        guessed[3] |= 5;
        upstream.send_to(&guessed, from).await.unwrap();
        upstream.send_to(&answer, from).await.unwrap();
    };
    let query = question("example.org.");
    let ((), answer) = tokio::join!(serving, udp(server, &query));
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
}
