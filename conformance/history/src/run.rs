//! One run: cluster up, clients on, faults by schedule, faults mended, a last write that everybody must see.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};
use steersman_storage::{RangeRequest, Store};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::cluster::{Cluster, Shape};
use crate::dice::Dice;
use crate::mutation::Mutation;
use crate::record::{Answer, At, Call, ETCD, End, Fault as FaultRecord, Item, Record, Request, Rv, Scope, Start};
use crate::schedule;
use crate::shapes;
use crate::traffic::session::{NAMESPACES, RESOURCE, Session, Shared};
use crate::traffic::{reader, watcher, wishes, writer::Writer};
use crate::wire::Servers;

/// What one run shall do.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    /// From the first client to the last fault, and [`schedule::CLOSING`].
    pub time: Duration,
    /// Calls per second of all writers and readers together.
    pub rate: usize,
    pub faults: bool,
    pub mutation: Option<Mutation>,
    pub file: PathBuf,
}

const WRITERS: usize = 8;
const READERS: usize = 6;
/// History is compacted this often, as etcd's own robustness tests do.
const COMPACT_EVERY: Duration = Duration::from_millis(200);
/// etcd itself is asked this often what the servers should show.
const SHADOW_EVERY: Duration = Duration::from_secs(2);
/// How long a cluster without faults may take to be whole again, and watchers to see the last write.
const RECOVERY: Duration = Duration::from_secs(60);

/// Runs against a cluster that is up, and leaves it as it was: the same cluster serves several runs.
pub async fn run(cluster: &mut Cluster, options: &Options, run: usize) -> Result<()> {
    let servers = Servers::new(cluster.urls(), &cluster.pki, options.mutation)?;
    let honest = Servers::new(cluster.urls(), &cluster.pki, None)?;
    let shared = Shared::new(&options.file)?;
    shared.put(&Record::Start(Start {
        seed: options.seed,
        seconds: options.time.as_secs(),
        servers: servers.urls.to_vec(),
        members: cluster.size(),
        rate: options.rate,
        mutation: options
            .mutation
            .map(|mutation| format!("{mutation:?}"))
            .unwrap_or_default(),
    }));
    ready(&honest).await?;
    let namespaces = [format!("shapes-{run}-begin"), format!("shapes-{run}-end")];
    for ns in NAMESPACES.iter().map(|ns| (*ns).to_owned()).chain(namespaces.clone()) {
        namespace(&honest, &shared, &ns).await?;
    }
    // Falsified answers only where that is what they are about.
    let asked = if options.mutation == Some(Mutation::ExactAsNewer) {
        &servers
    } else {
        &honest
    };
    shapes::ask(&shared, asked, &namespaces[0]).await?;
    let dice = Dice::new(options.seed);
    let mut base = Session::new(&shared, &honest, &dice, 800);
    sweep(&mut base).await?;
    let mut closer = Writer::new(base);
    closer.prepare().await?;
    let Answer::Listed { rv: first, .. } = closer.session.list(&Scope::default(), At::Latest, 0).await else {
        bail!("the first list failed");
    };

    let (tell, told) = tokio::sync::watch::channel(0);
    let mut busy = JoinSet::new();
    let mut number = 0;
    let mut session = || {
        number += 1;
        Session::new(&shared, &servers, &dice, number)
    };
    let pace = Duration::from_secs_f64((WRITERS + READERS) as f64 / options.rate.max(1) as f64);
    for _ in 0..WRITERS {
        busy.spawn(Writer::new(session()).run(pace));
    }
    for _ in 0..READERS {
        busy.spawn(reader::run(session(), pace));
    }
    let mut watchers = JoinSet::new();
    for wish in wishes() {
        watchers.spawn(watcher::run(session(), wish, first, told.clone()));
    }
    let helpers = [
        tokio::spawn(compact(cluster.store(), dice.part(7_001))),
        tokio::spawn(shadow(cluster.store(), Session::new(&shared, &servers, &dice, 801))),
    ];
    faults(cluster, &shared, options).await?;

    shared.stop();
    while busy.join_next().await.is_some() {}
    helpers.iter().for_each(JoinHandle::abort);
    let mut end = End::default();
    if let Err(error) = ready(&honest).await {
        end.troubles.push(format!("{error:#}"));
    }
    end.last = close(&mut closer).await;
    let _ = tell.send(end.last);
    let all_seen = async { while watchers.join_next().await.is_some() {} };
    if tokio::time::timeout(RECOVERY, all_seen).await.is_err() {
        end.troubles.push("a watcher did not see the last write".into());
        watchers.shutdown().await;
    }
    let mut last = Session::new(&shared, &honest, &dice, 802);
    for server in 0..servers.urls.len() {
        last.server = server;
        let _ = last.list(&Scope::default(), At::Latest, 0).await;
    }
    if let Err(error) = shapes::ask(&shared, asked, &namespaces[1]).await {
        end.troubles.push(format!("{error:#}"));
    }
    end.troubles.append(&mut cluster.troubles);
    shared.put(&Record::End(end));
    shared.finish()
}

/// Waits until every server says that it is ready.
async fn ready(servers: &Servers) -> Result<()> {
    let mut wire = crate::wire::Wire::new(servers, 0);
    let begin = Instant::now();
    for server in 0..servers.urls.len() {
        loop {
            let reply = wire.get(server, "/readyz", Duration::from_secs(5)).await;
            if reply.as_ref().is_ok_and(|reply| reply.code == 200) {
                break;
            }
            if begin.elapsed() > RECOVERY {
                bail!("API server {} is not ready after {RECOVERY:?}: {reply:?}", server + 1);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

async fn namespace(servers: &Servers, shared: &Shared, name: &str) -> Result<()> {
    let mut session = Session::new(shared, servers, &Dice::new(0), 0);
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let patience = Duration::from_secs(20);
    let reply = session
        .wire
        .send(
            0,
            Method::POST,
            "/api/v1/namespaces",
            "application/json",
            &body,
            patience,
        )
        .await;
    match reply {
        Ok(reply) if reply.is_good() || reply.code == 409 => {}
        other => bail!("cannot create namespace {name}: {other:?}"),
    }
    // Every server must know it before anybody writes into it.
    for server in 0..servers.urls.len() {
        let path = format!("/api/v1/namespaces/{name}");
        let reply = session.wire.get(server, &path, patience).await;
        if !reply.as_ref().is_ok_and(crate::wire::Reply::is_good) {
            bail!("server {} does not show namespace {name}: {reply:?}", server + 1);
        }
    }
    Ok(())
}

/// Removes what an earlier run left.
async fn sweep(session: &mut Session) -> Result<()> {
    for ns in NAMESPACES {
        let path = crate::traffic::session::collection_path(ns);
        let patience = Duration::from_secs(20);
        let reply = session
            .wire
            .send(0, Method::DELETE, &path, "application/json", &Value::Null, patience)
            .await;
        if !reply.as_ref().is_ok_and(crate::wire::Reply::is_good) {
            bail!("cannot empty {ns}: {reply:?}");
        }
    }
    Ok(())
}

/// Inflicts and mends by the schedule, until the run's time is over.
async fn faults(cluster: &mut Cluster, shared: &Shared, options: &Options) -> Result<()> {
    let planned = if options.faults {
        schedule::plan(options.seed, options.time, cluster.urls().len(), cluster.size())
    } else {
        Vec::new()
    };
    let begin = Instant::now();
    let mut planned = planned.into_iter().enumerate().peekable();
    let mut open = Vec::new();
    let note = |what: String| shared.put(&Record::Fault(FaultRecord { at: shared.now(), what }));
    loop {
        let now = begin.elapsed();
        let due = open.iter().position(|(until, ..): &(Duration, _, _)| *until <= now);
        if let Some(due) = due {
            let (_, what, mending) = open.swap_remove(due);
            cluster.mend(mending).await?;
            note(format!("mended: {what}"));
        } else if let Some((number, next)) = planned.next_if(|(_, next)| next.at <= now) {
            let what = format!("{:?} for {:?}", next.fault, next.lasts);
            let mending = cluster.inflict(&next.fault, number).await?;
            note(what.clone());
            open.push((begin.elapsed() + next.lasts, what, mending));
        } else if open.is_empty() && planned.peek().is_none() && now >= options.time {
            return Ok(());
        } else {
            cluster.look_after();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Compacts, sometimes up to now, sometimes leaving some history.
async fn compact(store: impl Store, mut dice: Dice) {
    let mut lag = 0;
    for round in 0_u64.. {
        if round.is_multiple_of(25) {
            lag = *dice.one(&[0, 50, 500, 1_000, 5_000, 5_000]);
        }
        tokio::time::sleep(COMPACT_EVERY).await;
        // It fails when there is no quorum; the next round comes soon.
        if let Ok(now) = store.current_revision().await
            && now > lag
        {
            let _ = store.compact(now - lag).await;
        }
    }
}

/// Asks etcd what there is, and an API server for exactly that revision.
async fn shadow(store: impl Store, mut session: Session) {
    let prefix = format!("/registry/{RESOURCE}/");
    loop {
        tokio::time::sleep(SHADOW_EVERY).await;
        let asked = session.shared.now();
        let request = RangeRequest {
            prefix: prefix.clone(),
            keys_only: true,
            ..RangeRequest::default()
        };
        let Ok(page) = store.range(request).await else { continue };
        let items = page.kvs.iter().map(|kv| Item {
            key: kv.key.strip_prefix(&prefix).unwrap_or_default().to_owned(),
            rv: kv.mod_revision,
        });
        let answer = Answer::Listed {
            rv: page.revision,
            items: items.collect(),
            hash: 0,
        };
        let request = Request::List {
            scope: Scope::default(),
            at: At::Latest,
            limit: 0,
        };
        let answered = session.shared.now();
        session.shared.put(&Record::Call(Call {
            client: session.number,
            server: ETCD,
            asked,
            answered,
            request,
            answer,
        }));
        session.hop();
        let _ = session.list(&Scope::default(), At::Exact(page.revision), 0).await;
    }
}

async fn close(closer: &mut Writer) -> Rv {
    let begin = Instant::now();
    while begin.elapsed() < RECOVERY {
        if let Some(rv) = closer.close().await {
            return rv;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    0
}

/// The programs a run needs, or why not.
pub fn shape(
    scratch: PathBuf,
    logs: PathBuf,
    etcd: PathBuf,
    apiservers: Vec<PathBuf>,
    servers: usize,
) -> Result<Shape> {
    for program in apiservers.iter().chain([&etcd]) {
        std::fs::metadata(program).with_context(|| program.display().to_string())?;
    }
    Ok(Shape {
        scratch,
        logs,
        etcd,
        apiservers,
        members: 3,
        servers,
    })
}
