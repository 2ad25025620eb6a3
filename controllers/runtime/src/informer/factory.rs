//! One informer per kind and selection, shared by everybody in a program.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use steersman_types::Typed;

use super::Informer;
use crate::client::{Client, ListOptions, Resource};

type Synced = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

struct Entry {
    informer: Box<dyn Any + Send + Sync>,
    synced: Synced,
}

/// Starts informers when they are first asked for and hands the same one to later callers. Clones share it.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    running: Arc<Mutex<HashMap<(TypeId, ListOptions), Entry>>>,
    /// By kind: a `fn(&mut T)`.
    trims: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>>,
}

impl Informers {
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            running: Arc::default(),
            trims: Arc::default(),
        }
    }

    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// From now on informers of the kind keep of an object only what `trim` leaves. For programs that hold many objects and
    /// read little of them; such an object must not be written back as a whole.
    pub fn trim<T: Typed>(&self, trim: fn(&mut T)) {
        self.trims.lock().insert(TypeId::of::<T>(), Box::new(trim));
    }

    /// All objects of the kind.
    #[must_use]
    pub fn of<T: Typed>(&self) -> Informer<T> {
        self.of_with::<T>(ListOptions::all())
    }

    /// A selection of the kind.
    #[must_use]
    pub fn of_with<T: Typed>(&self, options: ListOptions) -> Informer<T> {
        let mut running = self.running.lock();
        let key = (TypeId::of::<T>(), options.clone());
        if let Some(informer) = running
            .get(&key)
            .and_then(|entry| entry.informer.downcast_ref::<Informer<T>>())
        {
            return informer.clone();
        }
        let trim = self
            .trims
            .lock()
            .get(&TypeId::of::<T>())
            .and_then(|trim| trim.downcast_ref::<fn(&mut T)>().copied());
        let resource = Resource::of::<T>();
        let informer = Informer::<T>::start_trimmed(self.client.clone(), resource, options, trim.unwrap_or(|_| {}));
        let waiting = informer.clone();
        let synced: Synced = Box::new(move || {
            let informer = waiting.clone();
            Box::pin(async move { informer.synced().await })
        });
        running.insert(
            key,
            Entry {
                informer: Box::new(informer.clone()),
                synced,
            },
        );
        informer
    }

    /// Waits until every informer started so far has its first list.
    pub async fn synced(&self) {
        let waits: Vec<_> = self.running.lock().values().map(|entry| (entry.synced)()).collect();
        join_all(waits).await;
    }
}
