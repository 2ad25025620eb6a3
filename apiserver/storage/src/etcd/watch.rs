//! A watch that survives: it moves to another member when its member dies, hangs or loses the leader, and resumes behind
//! the last whole revision that it handed on. So no change is lost or repeated.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::{Members, key_of, pb, range_of};
use crate::store::{Batch, Change, Error, KeyValue, Result, Revision, WatchStream};

/// Batches that wait for a slow reader; then the member is slowed down by flow control.
const BUFFER: usize = 16;
/// Silence after which the member is asked for a sign of life, and again until it counts as dead.
const SILENCE: Duration = Duration::from_secs(4);
/// Time for the member to confirm a new watch.
const CONFIRM: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);
/// How often a short watch asks the member how far it is.
const ASK_AGAIN: Duration = Duration::from_millis(30);

struct Watch {
    members: Arc<Members>,
    prefix: String,
    /// First revision that was not handed on.
    next: Revision,
    /// Changes of a response that comes in fragments, or of a revision that is not whole.
    partial: Vec<Change>,
    out: mpsc::Sender<Result<Batch>>,
}

/// Starts a watch for changes below `prefix` from revision `from` on.
pub(super) fn start(members: Arc<Members>, prefix: &str, from: Revision) -> WatchStream {
    let (out, batches) = mpsc::channel(BUFFER);
    let watch = Watch {
        members,
        prefix: prefix.into(),
        next: from,
        partial: Vec::new(),
        out,
    };
    tokio::spawn(watch.run());
    ReceiverStream::new(batches).boxed()
}

/// The reader is gone, or the last error was handed on.
type End = ControlFlow<()>;

impl Watch {
    async fn run(mut self) {
        let out = self.out.clone();
        tokio::select! {
            () = out.closed() => {}
            () = async { while self.connection().await.is_continue() {} } => {}
        }
    }

    /// Watches over one connection until that fails.
    async fn connection(&mut self) -> End {
        let members = self.members.clone();
        let (at, member) = members.pick();
        let (ask, asked) = mpsc::channel(4);
        let (key, range_end) = range_of(&self.prefix);
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: self.next,
            fragment: true,
        };
        let create = pb::watch_request::RequestUnion::CreateRequest(create);
        // Room for it is there: the channel is new.
        let _ = ask.try_send(pb::WatchRequest {
            request_union: Some(create),
        });
        self.partial.clear();
        let mut client = member.watch();
        let connected = tokio::time::timeout(CONFIRM, client.watch(ReceiverStream::new(asked))).await;
        let why = match connected {
            Ok(Ok(answers)) => {
                members.praise(at);
                let end = tokio::select! {
                    end = self.receive(answers.into_inner(), ask) => end,
                    // A request noticed before us that the member is bad. (What was received and not handed on comes again.)
                    () = members.left(at) => return End::Continue(()),
                };
                match end {
                    Ok(end) => return end,
                    Err(why) => why,
                }
            }
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => "no answer to a new watch".to_owned(),
        };
        tracing::info!(endpoint = member.endpoint, from = self.next, %why, "watch of an etcd member failed; resuming");
        members.shun(at);
        tokio::time::sleep(PAUSE).await;
        End::Continue(())
    }

    /// Hands on what comes. `Err`: the connection failed (why), try another.
    async fn receive(
        &mut self,
        mut answers: Streaming<pb::WatchResponse>,
        ask: mpsc::Sender<pb::WatchRequest>,
    ) -> Result<End, String> {
        let mut doubted = false;
        loop {
            let answer = match tokio::time::timeout(SILENCE, answers.message()).await {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) => return Err("closed".into()),
                Ok(Err(status)) => return Err(status.message().to_owned()),
                Err(_) if doubted => return Err("silent".into()),
                Err(_) => {
                    // The revision in the answer to this is not believed (etcd has told wrong ones); that there is one, is.
                    let progress = pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    let _ = ask.try_send(pb::WatchRequest {
                        request_union: Some(progress),
                    });
                    doubted = true;
                    continue;
                }
            };
            doubted = false;
            if answer.canceled {
                if answer.compact_revision > 0 {
                    let error = Error::Compacted {
                        requested: self.next,
                        oldest: answer.compact_revision,
                    };
                    let _ = self.out.send(Err(error)).await;
                    return Ok(End::Break(()));
                }
                return Err(answer.cancel_reason);
            }
            let fragment = answer.fragment;
            self.partial.extend(
                answer
                    .events
                    .into_iter()
                    .filter_map(change_of)
                    .filter(|c| c.revision() >= self.next),
            );
            if fragment || self.partial.is_empty() {
                continue;
            }
            let changes = std::mem::take(&mut self.partial);
            let revision = changes.last().map_or(self.next - 1, Change::revision);
            if self.out.send(Ok(Batch { revision, changes })).await.is_err() {
                return Ok(End::Break(()));
            }
            self.next = revision + 1;
        }
    }
}

/// The first change of a key at or after a revision, which must have happened. A deletion has version 0 and no value.
/// `None` never comes from a well-behaved member.
pub(super) async fn first_change(members: &Members, key: &str, from: Revision) -> Result<Option<pb::KeyValue>> {
    let past = changes(members, key, from, |past, _| !past.is_empty()).await?;
    Ok(past.into_iter().next())
}

/// All changes of a key from one revision to another, which the store has reached.
pub(super) async fn history(members: &Members, key: &str, from: Revision, to: Revision) -> Result<Vec<pb::KeyValue>> {
    let mut past = changes(members, key, from, |_, told| told >= to).await?;
    past.retain(|kv| kv.mod_revision <= to);
    Ok(past)
}

/// Changes of a key from a revision on, until it is enough: by what came, and by the revision up to which the member says
/// that it has told everything.
async fn changes(
    members: &Members,
    key: &str,
    from: Revision,
    enough: impl Fn(&[pb::KeyValue], Revision) -> bool + Send + Sync,
) -> Result<Vec<pb::KeyValue>> {
    let enough = &enough;
    members
        .read(|member| async move {
            let (ask, asked) = mpsc::channel(4);
            let request = |union| pb::WatchRequest {
                request_union: Some(union),
            };
            let create = pb::WatchCreateRequest {
                key: super::bytes_of(key),
                start_revision: from,
                ..Default::default()
            };
            let _ = ask.try_send(request(pb::watch_request::RequestUnion::CreateRequest(create)));
            let mut answers = member.watch().watch(ReceiverStream::new(asked)).await?.into_inner();
            let (mut past, mut told) = (Vec::new(), 0);
            while !enough(&past, told) {
                let answer = match tokio::time::timeout(ASK_AGAIN, answers.message()).await {
                    Ok(answer) => answer?.ok_or_else(|| Status::unavailable("the watch was closed"))?,
                    Err(_) => {
                        // Answered only when the watch has caught up (right since etcd 3.4.25 and 3.5.8).
                        let progress = pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                        let _ = ask.try_send(request(progress));
                        continue;
                    }
                };
                if answer.canceled && answer.compact_revision > 0 {
                    return Err(Status::out_of_range("required revision has been compacted"));
                }
                if answer.events.is_empty() && !answer.created {
                    told = answer.header.as_ref().map_or(0, |header| header.revision);
                }
                past.extend(answer.events.into_iter().filter_map(|event| event.kv));
            }
            Ok(Response::new(past))
        })
        .await
}

fn change_of(event: pb::Event) -> Option<Change> {
    let deleted = event.r#type() == pb::event::EventType::Delete;
    let kv = event.kv?;
    Some(if deleted {
        Change::Delete {
            key: key_of(&kv.key),
            revision: kv.mod_revision,
        }
    } else {
        Change::Put(KeyValue::from(kv))
    })
}
