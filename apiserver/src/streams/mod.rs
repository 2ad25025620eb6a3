//! Upgraded connections whose bytes this server looks at: exec and attach over WebSocket v5, which become SPDY/3.1 towards the
//! kubelet, and port-forward's SPDY inside WebSocket messages.
//!
//! Called by [`crate::subresources`]; what can be passed through as it is does not come here. [`websocket`] and [`spdy`] are
//! the framings (pure), [`remote`] and [`tunnel`] join them. Everything is bounded: what one side does not take is not read
//! from the other.

pub mod remote;
pub mod spdy;
pub mod tunnel;
pub mod websocket;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Frames that wait for a slow peer. With [`PIECE`] it bounds what one direction of a session holds.
const QUEUED: usize = 8;
/// Most bytes of a stream that are passed on at once.
pub const PIECE: usize = 32 * 1024;
/// Without any frame for so long, a client is gone (upstream's idle timeout).
const IDLE: Duration = Duration::from_secs(4 * 3600);
/// Keeps what lies between us and a side from forgetting a quiet connection, and finds out whether a client is still there.
const PING_PERIOD: Duration = Duration::from_secs(5);
/// What a side that has been told of the end may take to leave.
const FAREWELL: Duration = Duration::from_secs(5);

/// The sending half of a connection: whole frames in, so that nobody's frame is cut short when a task ends.
fn writer(mut to: impl AsyncWrite + Unpin + Send + 'static) -> (mpsc::Sender<Bytes>, JoinHandle<()>) {
    let (sender, mut frames) = mpsc::channel::<Bytes>(QUEUED);
    let task = tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if to.write_all(&frame).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
        // Nobody is left to be told that the other side has gone.
        let _ = to.shutdown().await;
    });
    (sender, task)
}

/// Ends a [`writer`] whose senders are gone: what it still has is written if the peer takes it soon.
async fn finish(mut writing: JoinHandle<()>) {
    if tokio::time::timeout(FAREWELL, &mut writing).await.is_err() {
        writing.abort();
    }
}

/// Waits for the other side while a client's messages are not read; `None`: the client has left. Its pings are how one
/// notices: writing to somebody who is gone fails.
async fn while_there<T>(client: &mpsc::Sender<Bytes>, wait: impl Future<Output = T>) -> Option<T> {
    let leaving = async {
        let mut ticks = tokio::time::interval(PING_PERIOD);
        ticks.tick().await;
        loop {
            tokio::select! {
                () = client.closed() => return,
                _ = ticks.tick() => drop(client.try_send(websocket::ping())),
            }
        }
    };
    tokio::select! {
        biased;
        done = wait => Some(done),
        () = leaving => None,
    }
}
