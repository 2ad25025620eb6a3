//! A watch: a cursor into the event log. It holds no events, so thousands of idle or slow ones cost little.

use std::sync::Arc;

use super::{
    Error, Inner,
    event::Event,
    scope::{Scope, Topic},
    state::{Look, Position},
};
use crate::store::Revision;

/// What [`Watch::next`] yields.
#[derive(Debug)]
pub enum Next {
    /// At least one event, in order; all events of a revision are in one item.
    Events(Vec<Arc<Event>>),
    /// The watch fell out of history (or history was lost): it is over, the client must list again.
    Expired,
}

/// A cursor into the event log, made by [`super::Cache::watch`].
pub struct Watch {
    cache: Arc<Inner>,
    scope: Scope,
    topic: Arc<Topic>,
    at: Position,
    over: bool,
}

impl Watch {
    pub(super) fn start(cache: Arc<Inner>, scope: Scope, revision: Revision) -> Result<Self, Error> {
        let (at, topic) = cache.state.write().join(&scope, revision)?;
        Ok(Watch {
            cache,
            scope,
            topic,
            at,
            over: false,
        })
    }

    /// Waits for events. Cancel safe: a dropped call loses nothing. After [`Next::Expired`] it is [`Next::Expired`] for ever.
    pub async fn next(&mut self) -> Next {
        loop {
            // Listen before looking, so that what happens in between wakes us.
            let topic = self.topic.clone();
            let mut heard = std::pin::pin!(topic.notify.notified());
            heard.as_mut().enable();
            match self.look() {
                Look::Events(events) => return Next::Events(events),
                Look::Expired => {
                    self.over = true;
                    return Next::Expired;
                }
                Look::Again => tokio::task::yield_now().await,
                Look::Idle => heard.await,
            }
        }
    }

    /// The revision up to which everything in scope has been delivered by [`Watch::next`]: what a bookmark may say. It grows
    /// while the scope is idle, and stands still while there is something to deliver.
    pub fn revision(&mut self) -> Revision {
        if !self.over {
            self.cache.state.read().advance(&self.scope, &self.topic, &mut self.at);
        }
        self.at.revision
    }

    fn look(&mut self) -> Look {
        if self.over {
            return Look::Expired;
        }
        self.cache.state.read().look(&self.scope, &self.topic, &mut self.at)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.cache.state.write().leave(&self.scope, &self.topic);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("scope", &self.scope)
            .field("revision", &self.at.revision)
            .finish_non_exhaustive()
    }
}
