//! Sessions over pipes in memory, with time that passes by itself: what becomes of them when a kubelet stops reading.

use super::*;
use crate::streams::websocket::tests::masked;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const OPTIONS: Options = Options {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: false,
};

/// A session, a client that can send much, and a kubelet that takes less than the frames which open the streams.
fn session() -> (tokio::task::JoinHandle<()>, DuplexStream, DuplexStream) {
    let (client, ours) = tokio::io::duplex(8 << 20);
    let (kubelet, backend) = tokio::io::duplex(64);
    let task = tokio::spawn(converse(async { Ok(backend) }, OPTIONS, ours));
    (task, client, kubelet)
}

/// Accepts the streams error, stdin and stdout.
async fn accept(kubelet: &mut DuplexStream) {
    for stream in [1u8, 3, 5] {
        let reply = [0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, stream];
        kubelet.write_all(&reply).await.unwrap();
    }
}

async fn stdin(client: &mut DuplexStream, frames: usize) {
    let message = [&[STDIN], [7u8; 16 * 1024].as_slice()].concat();
    for _ in 0..frames {
        let frame = masked(websocket::BINARY, true, &message, [1, 2, 3, 4]);
        client.write_all(&frame).await.unwrap();
    }
}

/// The task has ended, and nobody holds the kubelet's connection.
async fn is_over(task: tokio::task::JoinHandle<()>, kubelet: &mut DuplexStream) {
    tokio::time::timeout(Duration::from_secs(60), task)
        .await
        .unwrap()
        .unwrap();
    // An aborted task is dropped when its runtime comes to it.
    let closed = async { while kubelet.write_all(&[0]).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(1), closed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_a_kubelet_which_never_reads_leaves_nothing_behind() {
    let (task, mut client, mut kubelet) = session();
    accept(&mut kubelet).await;
    stdin(&mut client, 40).await;
    drop(client);
    is_over(task, &mut kubelet).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_and_leaves_a_kubelet_which_never_reads_leaves_nothing_behind() {
    let (task, client, mut kubelet) = session();
    accept(&mut kubelet).await;
    drop(client);
    is_over(task, &mut kubelet).await;
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_never_reads_is_heard_to_the_end() {
    let (task, mut client, mut kubelet) = session();
    accept(&mut kubelet).await;
    stdin(&mut client, 40).await;
    // More pings than answers can wait.
    for id in 1..=20u8 {
        kubelet
            .write_all(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2 * id])
            .await
            .unwrap();
    }
    kubelet.write_all(&spdy::data(5, b"out", true)).await.unwrap();
    kubelet
        .write_all(&spdy::data(1, br#"{"status":"Success"}"#, true))
        .await
        .unwrap();
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&said).contains("Success") {
        let n = tokio::time::timeout(Duration::from_secs(60), client.read(&mut piece))
            .await
            .unwrap()
            .unwrap();
        assert_ne!(n, 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&piece[..n]);
    }
    assert!(String::from_utf8_lossy(&said).contains("out"));
    is_over(task, &mut kubelet).await;
}
