//! A cluster in memory for every plugin's tests; the chain's own tests; below, those of the plugins that are one file each.

mod certificates;
mod namespaces;
mod pods;
mod service_accounts;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use steersman_auth::authz::{Attributes, Outcome, Reason, Rules};
use steersman_auth::lister::{Fixed, text};
use steersman_auth::user::{User, UserInfo};
use steersman_auth::{Authorizer, Lister};
use steersman_schema::status::Status;

use crate::Operation::Create;
use crate::{Chain, Cluster, Operation, Request, Surroundings, UnknownPlugin, Warnings};

/// Objects, what appears at the next refresh, and who may do what (`verb resource name`).
#[derive(Default)]
pub(crate) struct World {
    objects: Mutex<Fixed>,
    late: Mutex<Vec<(&'static str, &'static str, Value)>>,
    allowed: Vec<&'static str>,
}

impl World {
    pub(crate) fn put(&mut self, group: &str, plural: &str, object: Value) {
        self.objects.get_mut().put(group, plural, object);
    }

    pub(crate) fn chain(self, plugins: &[&str]) -> Chain {
        let world = Arc::new(self);
        let around = Surroundings {
            cluster: world.clone(),
            authorizer: world,
            not_ready_seconds: 300,
            unreachable_seconds: 300,
        };
        let off: Vec<String> = crate::chain::ORDER.iter().map(|e| e.name.to_owned()).collect();
        let on: Vec<String> = plugins.iter().map(|p| (*p).to_owned()).collect();
        let off: Vec<String> = off.into_iter().filter(|name| !on.contains(name)).collect();
        Chain::build(&on, &off, &around).expect("valid flags")
    }
}

impl Lister for World {
    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.objects.lock().list(group, plural, namespace)
    }

    fn get(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        self.objects.lock().get(group, plural, namespace, name)
    }
}

#[async_trait::async_trait]
impl Cluster for World {
    async fn refresh(&self) -> Result<(), Box<Status>> {
        let late: Vec<_> = self.late.lock().drain(..).collect();
        for (group, plural, object) in late {
            self.objects.lock().put(group, plural, object);
        }
        Ok(())
    }

    async fn replace(&self, group: &str, plural: &str, object: &Value) -> Result<Option<Value>, Box<Status>> {
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        let mut objects = self.objects.lock();
        let stored = objects.get(group, plural, Some(namespace), name);
        let version = |o: &Value| text(o, "/metadata/resourceVersion").to_owned();
        if stored.is_none_or(|stored| version(&stored) != version(object)) {
            return Ok(None);
        }
        let mut new = object.clone();
        let next = version(object).parse::<u64>().unwrap_or(0) + 1;
        new["metadata"]["resourceVersion"] = next.to_string().into();
        objects.put(group, plural, new.clone());
        Ok(Some(new))
    }

    async fn pause(&self, _: Duration) {}
}

impl Authorizer for World {
    fn authorize(&self, what: &Attributes) -> Outcome {
        let asked = format!("{} {} {}", what.verb, what.resource, what.name);
        if self.allowed.contains(&asked.as_str()) {
            Outcome::allow(Reason::default())
        } else {
            Outcome::no_opinion("")
        }
    }

    fn rules_for(&self, _: &User, _: &str) -> Rules {
        Rules::default()
    }
}

pub(crate) fn user(name: &str, groups: &[&str]) -> User {
    let groups = groups.iter().map(|g| (*g).to_owned()).collect();
    Arc::new(UserInfo {
        groups,
        ..UserInfo::named(name)
    })
}

pub(crate) fn request(operation: Operation, group: &str, resource: &str, namespace: &str, name: &str) -> Request {
    Request {
        operation,
        user: user("alice", &["system:authenticated"]),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: String::new(),
        kind: String::new(),
        kind_group: String::new(),
        namespace: namespace.into(),
        name: name.into(),
        object: None,
        old: None,
        options: Value::Null,
        dry_run: false,
        now: jiff::Timestamp::UNIX_EPOCH,
        random: 12_345,
        warnings: Warnings::default(),
    }
}

fn pod(spec: Value) -> Request {
    let object = json!({"kind": "Pod", "metadata": {"namespace": "ns", "name": "p"}, "spec": spec});
    Request {
        object: Some(object),
        ..request(Create, "", "pods", "ns", "p")
    }
}

/// Both passes; the object afterwards, or the refusal's text.
async fn run(chain: &Chain, mut request: Request) -> Result<Value, String> {
    chain.admit(&mut request).await.map_err(|s| s.to_string())?;
    chain.validate(&request).await.map_err(|s| s.to_string())?;
    Ok(request.object.unwrap_or_default())
}

#[test]
fn the_chain_has_upstreams_order_and_flags_do_what_they_say() {
    let around = || {
        let world = Arc::new(World::default());
        Surroundings {
            cluster: world.clone(),
            authorizer: world,
            not_ready_seconds: 300,
            unreachable_seconds: 300,
        }
    };
    let words = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let build = |on: &[&str], off: &[&str]| Chain::build(&words(on), &words(off), &around()).map(|c| c.names());
    let all = build(&["NodeRestriction"], &["LimitRanger", "PodSecurity"]).expect("valid");
    let order: Vec<&str> = crate::chain::ORDER
        .iter()
        .map(|e| e.name)
        .filter(|n| all.contains(n))
        .collect();
    assert_eq!(all, order);
    assert!(all.starts_with(&[
        "NamespaceLifecycle",
        "ServiceAccount",
        "NodeRestriction",
        "TaintNodesByCondition"
    ]));
    assert!(
        !build(&[], &["ServiceAccount"])
            .expect("valid")
            .contains(&"ServiceAccount")
    );
    assert_eq!(crate::chain::ORDER.len(), 41);
    assert_eq!(crate::chain::ORDER.iter().filter(|e| e.default_on).count(), 27);
    for (on, off, want) in [
        (
            &["Nonsense"][..],
            &[][..],
            "enable-admission-plugins plugin \"Nonsense\" is unknown",
        ),
        (
            &[],
            &["Nonsense"],
            "disable-admission-plugins plugin \"Nonsense\" is unknown",
        ),
        (
            &["EventRateLimit"],
            &[],
            "enable-admission-plugins plugin \"EventRateLimit\" is not implemented",
        ),
        (
            &["Priority", "ServiceAccount"],
            &["ServiceAccount"],
            "[ServiceAccount] in enable-admission-plugins and disable-admission-plugins overlapped",
        ),
    ] {
        let faults: Vec<UnknownPlugin> = build(on, off).expect_err(want);
        assert_eq!(faults.iter().map(ToString::to_string).collect::<Vec<_>>(), [want]);
    }
}
