//! A cluster in memory for every plugin's tests, and the tests of the plugins that are one file each.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use steersman_auth::authz::{Attributes, Outcome, Reason, Rules};
use steersman_auth::lister::Fixed;
use steersman_auth::user::{User, UserInfo};
use steersman_auth::{Authorizer, Lister};

use crate::Operation::{Create, Delete, Update};
use crate::{Chain, Cluster, Operation, Request, Surroundings, UnknownPlugin};

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
    async fn refresh(&self) -> Result<(), String> {
        let late: Vec<_> = self.late.lock().drain(..).collect();
        for (group, plural, object) in late {
            self.objects.lock().put(group, plural, object);
        }
        Ok(())
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
        warnings: Vec::new(),
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

fn namespace(name: &str, phase: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"phase": phase}})
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

#[tokio::test]
async fn namespaces_must_exist_and_not_end() {
    let mut world = World::default();
    world.put("", "namespaces", namespace("ns", "Active"));
    world.put("", "namespaces", namespace("ending", "Terminating"));
    world.late.lock().push(("", "namespaces", namespace("late", "Active")));
    let chain = world.chain(&["NamespaceLifecycle"]);
    let create = |namespace: &str| Request {
        object: Some(json!({"metadata": {"generateName": "x-"}})),
        ..request(Create, "", "configmaps", namespace, "")
    };
    assert!(run(&chain, create("ns")).await.is_ok());
    assert_eq!(
        run(&chain, create("none")).await,
        Err("namespaces \"none\" not found".into())
    );
    assert!(run(&chain, create("late")).await.is_ok());
    let refused = run(&chain, create("ending")).await;
    let want = "configmaps \"x-\" is forbidden: unable to create new content in namespace ending because it is being \
                terminated";
    assert_eq!(refused, Err(want.into()));
    let status = chain.admit(&mut create("ending")).await.expect_err("ending").to_value();
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "NamespaceTerminating", "message": "namespace ending is being terminated",
                "field": "metadata.namespace"}])
    );
    assert!(
        run(&chain, request(Update, "", "configmaps", "ending", "x"))
            .await
            .is_ok()
    );
    assert!(
        run(&chain, request(Delete, "", "configmaps", "none", "x"))
            .await
            .is_ok()
    );
    assert!(run(&chain, request(Create, "", "nodes", "", "x")).await.is_ok());
    let review = request(Create, "authorization.k8s.io", "localsubjectaccessreviews", "none", "");
    assert!(run(&chain, review).await.is_ok());
    for name in ["default", "kube-system", "kube-public", "ns"] {
        let delete = Request {
            kind: "Namespace".into(),
            ..request(Delete, "", "namespaces", name, name)
        };
        let want = format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted");
        assert_eq!(
            run(&chain, delete).await,
            if name == "ns" { Ok(Value::Null) } else { Err(want) }
        );
    }
}

#[tokio::test]
async fn after_its_deletion_a_namespace_that_still_looks_active_is_looked_at_again() {
    let mut world = World::default();
    world.put("", "namespaces", namespace("ns", "Active"));
    world
        .late
        .lock()
        .push(("", "namespaces", namespace("ns", "Terminating")));
    let chain = world.chain(&["NamespaceLifecycle"]);
    assert!(run(&chain, request(Create, "", "secrets", "ns", "a")).await.is_ok());
    let delete = Request {
        kind: "Namespace".into(),
        ..request(Delete, "", "namespaces", "ns", "ns")
    };
    assert!(run(&chain, delete).await.is_ok());
    assert!(run(&chain, request(Create, "", "secrets", "ns", "a")).await.is_err());
}

fn account(name: &str, more: Value) -> Value {
    let mut object = json!({"metadata": {"namespace": "ns", "name": name}});
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

#[tokio::test]
async fn a_pod_gets_the_default_account_its_token_and_its_pull_secrets() {
    let mut world = World::default();
    world.put(
        "",
        "serviceaccounts",
        account("default", json!({"imagePullSecrets": [{"name": "registry"}]})),
    );
    let chain = world.chain(&["ServiceAccount"]);
    let taken = "/var/run/secrets/kubernetes.io/serviceaccount";
    let spec = json!({"initContainers": [{"name": "i"}],
                      "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": taken}]}]});
    let pod = run(&chain, pod(spec)).await.expect("admitted");
    let spec = &pod["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "registry"}]));
    let name = spec["volumes"][0]["name"].as_str().expect("a volume");
    let random = name.strip_prefix("kube-api-access-").expect("its prefix");
    assert!(
        random.len() == 5 && random.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)),
        "{name}"
    );
    let mount = json!([{"name": name, "readOnly": true, "mountPath": taken}]);
    assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
    assert_eq!(spec["containers"][0]["volumeMounts"], mount);
    assert_eq!(spec["containers"][1]["volumeMounts"][0]["name"], "own");
    assert_eq!(
        spec["volumes"][0]["projected"],
        json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]})
    );
}

#[tokio::test]
async fn the_pod_before_the_account_decides_whether_a_token_is_mounted() {
    let spec = |own: Option<bool>| {
        let mut spec = json!({"serviceAccountName": "a", "containers": [{"name": "c"}]});
        if let Some(own) = own {
            spec["automountServiceAccountToken"] = own.into();
        }
        spec
    };
    for (of_account, of_pod, want) in [
        (None, None, true),
        (Some(false), None, false),
        (Some(false), Some(true), true),
        (Some(true), Some(false), false),
    ] {
        let mut world = World::default();
        let more = of_account.map_or(json!({}), |flag: bool| json!({"automountServiceAccountToken": flag}));
        world.put("", "serviceaccounts", account("a", more));
        let pod = run(&world.chain(&["ServiceAccount"]), pod(spec(of_pod)))
            .await
            .expect("admitted");
        assert_eq!(pod["spec"]["volumes"].is_array(), want, "{of_account:?} {of_pod:?}");
    }
}

#[tokio::test]
async fn a_missing_account_refuses_unless_it_is_only_late() {
    let world = World::default();
    world
        .late
        .lock()
        .push(("", "serviceaccounts", account("default", json!({}))));
    let chain = world.chain(&["ServiceAccount"]);
    assert!(run(&chain, pod(json!({"containers": []}))).await.is_ok());
    let refused = run(&chain, pod(json!({"serviceAccountName": "none"}))).await;
    let want = "pods \"p\" is forbidden: error looking up service account ns/none: serviceaccount \"none\" not found";
    assert_eq!(refused, Err(want.into()));
}

#[tokio::test]
async fn a_mirror_pod_stays_as_it_is_and_reaches_for_nothing() {
    let chain = World::default().chain(&["ServiceAccount"]);
    let mirror = |spec: Value| {
        let mut request = pod(spec);
        if let Some(object) = request.object.as_mut() {
            object["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        }
        request
    };
    let plain = json!({"containers": [{"name": "c"}]});
    assert_eq!(
        run(&chain, mirror(plain.clone())).await.map(|p| p["spec"].clone()),
        Ok(plain)
    );
    for (spec, want) in [
        (
            json!({"serviceAccountName": "a"}),
            "a mirror pod may not reference service accounts",
        ),
        (
            json!({"volumes": [{"secret": {"secretName": "s"}}]}),
            "a mirror pod may not reference secrets",
        ),
        (
            json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            "a mirror pod may not use ServiceAccountToken volume projections",
        ),
    ] {
        assert_eq!(
            run(&chain, mirror(spec)).await,
            Err(format!("pods \"p\" is forbidden: {want}"))
        );
    }
}

#[tokio::test]
async fn an_account_may_limit_its_pods_to_the_secrets_it_lists() {
    let mut world = World::default();
    let mut limited = account(
        "a",
        json!({"secrets": [{"name": "ok"}], "imagePullSecrets": [{"name": "pull"}]}),
    );
    limited["metadata"]["annotations"] = json!({"kubernetes.io/enforce-mountable-secrets": "true"});
    world.put("", "serviceaccounts", limited);
    let chain = world.chain(&["ServiceAccount"]);
    let not = "is not allowed because service account a does not reference that";
    for (spec, want) in [
        (json!({"volumes": [{"secret": {"secretName": "ok"}}]}), String::new()),
        (
            json!({"volumes": [{"secret": {"secretName": "no"}}]}),
            format!("volume with secret.secretName=\"no\" {not} secret"),
        ),
        (
            json!({"initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "no"}}]}]}),
            format!("init container i with envFrom referencing secret.secretName=\"no\" {not} secret"),
        ),
        (
            json!({"containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "no"}}}]}]}),
            format!("container c with envVar E referencing secret.secretName=\"no\" {not} secret"),
        ),
        (
            json!({"imagePullSecrets": [{"name": "no"}]}),
            format!("imagePullSecrets[0].name=\"no\" {not} imagePullSecret"),
        ),
    ] {
        let mut spec = spec;
        spec["serviceAccountName"] = "a".into();
        let got = run(&chain, pod(spec)).await.map(|_| ());
        let want = if want.is_empty() {
            Ok(())
        } else {
            Err(format!("pods \"p\" is forbidden: {want}"))
        };
        assert_eq!(got, want);
    }
}

#[tokio::test]
async fn a_new_node_is_tainted_once() {
    let chain = World::default().chain(&["TaintNodesByCondition"]);
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let other = json!({"key": "a", "effect": "NoSchedule"});
    for (given, want) in [
        (Value::Null, json!([taint])),
        (json!([other]), json!([other, taint])),
        (json!([taint]), json!([taint])),
    ] {
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": given}});
        let request = Request {
            object: Some(node),
            ..request(Create, "", "nodes", "", "n")
        };
        assert_eq!(
            run(&chain, request).await.map(|n| n["spec"]["taints"].clone()),
            Ok(want)
        );
    }
}

#[tokio::test]
async fn pods_tolerate_failing_nodes_for_five_minutes_unless_they_say_otherwise() {
    let chain = World::default().chain(&["DefaultTolerationSeconds"]);
    let ours = |taint: &str| {
        json!({"key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute",
               "tolerationSeconds": 300})
    };
    let own = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 1});
    let everything = json!({"operator": "Exists"});
    for (given, want) in [
        (Value::Null, json!([ours("not-ready"), ours("unreachable")])),
        (json!([own]), json!([own, ours("unreachable")])),
        (json!([everything]), json!([everything])),
    ] {
        let got = run(&chain, pod(json!({"tolerations": given}))).await;
        assert_eq!(got.map(|p| p["spec"]["tolerations"].clone()), Ok(want));
    }
}

fn class(name: &str, value: i64, default: bool) -> Value {
    json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"})
}

#[tokio::test]
async fn a_class_name_becomes_a_number_and_the_number_is_not_the_users_to_choose() {
    let mut world = World::default();
    world.put("scheduling.k8s.io", "priorityclasses", class("high", 1000, false));
    let chain = world.chain(&["Priority"]);
    let spec = |spec: Value| run(&chain, pod(spec));
    let plain = spec(json!({})).await.expect("admitted");
    assert_eq!(
        plain["spec"],
        json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"})
    );
    let high = spec(json!({"priorityClassName": "high"})).await.expect("admitted");
    assert_eq!(
        high["spec"],
        json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"})
    );
    for (given, want) in [
        (
            json!({"priorityClassName": "none"}),
            "no PriorityClass with name none was found",
        ),
        (
            json!({"priority": 7}),
            "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 \
             from the given PriorityClass name",
        ),
        (
            json!({"priorityClassName": "high", "preemptionPolicy": "PreemptLowerPriority"}),
            "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority \
             admission controller computed Never from the given PriorityClass name",
        ),
    ] {
        assert_eq!(spec(given).await, Err(format!("pods \"p\" is forbidden: {want}")));
    }
    let old = json!({"spec": {"priority": 5, "preemptionPolicy": "Never"}});
    let update = Request {
        operation: Update,
        old: Some(Arc::new(old)),
        object: Some(json!({"spec": {}})),
        ..pod(json!({}))
    };
    assert_eq!(
        run(&chain, update).await,
        Ok(json!({"spec": {"priority": 5, "preemptionPolicy": "Never"}}))
    );
}

#[tokio::test]
async fn there_is_one_default_class_and_it_applies() {
    let mut world = World::default();
    world.put("scheduling.k8s.io", "priorityclasses", class("usual", 10, true));
    let chain = world.chain(&["Priority"]);
    let plain = run(&chain, pod(json!({}))).await.expect("admitted");
    assert_eq!(
        plain["spec"],
        json!({"priorityClassName": "usual", "priority": 10, "preemptionPolicy": "Never"})
    );
    let write = |operation, name: &str| Request {
        object: Some(class(name, 1, true)),
        ..request(operation, "scheduling.k8s.io", "priorityclasses", "", name)
    };
    let want = "priorityclasses.scheduling.k8s.io \"second\" is forbidden: PriorityClass usual is already marked as \
                default. Only one default can exist";
    assert_eq!(run(&chain, write(Create, "second")).await, Err(want.into()));
    assert_eq!(run(&chain, write(Update, "second")).await, Err(want.into()));
    assert!(run(&chain, write(Update, "usual")).await.is_ok());
}

#[tokio::test]
async fn signing_requests_need_permission_on_their_signer() {
    let signer = "example.com/x";
    let csr = |status: Value| json!({"metadata": {"name": "c"}, "spec": {"signerName": signer}, "status": status});
    let update = |subresource: &str, new: Value| Request {
        subresource: subresource.into(),
        object: Some(new),
        old: Some(Arc::new(csr(Value::Null))),
        ..request(Update, "certificates.k8s.io", "certificatesigningrequests", "", "c")
    };
    let plugins = &["CertificateApproval", "CertificateSigning"];
    let world = |allowed: Vec<&'static str>| {
        World {
            allowed,
            ..World::default()
        }
        .chain(plugins)
    };
    let signed = || update("status", csr(json!({"certificate": "Y2VydA=="})));
    let prefix = "certificatesigningrequests.certificates.k8s.io \"c\" is forbidden: user not permitted to";
    let nobody = world(Vec::new());
    let refused = run(&nobody, update("approval", csr(Value::Null))).await;
    assert_eq!(
        refused,
        Err(format!("{prefix} approve requests with signerName \"{signer}\""))
    );
    assert_eq!(
        run(&nobody, signed()).await,
        Err(format!("{prefix} sign requests with signerName \"{signer}\""))
    );
    assert!(run(&nobody, update("status", csr(Value::Null))).await.is_ok());
    let approver = world(vec!["approve signers example.com/*", "sign signers example.com/x"]);
    assert!(run(&approver, update("approval", csr(Value::Null))).await.is_ok());
    assert!(run(&approver, signed()).await.is_ok());
}

#[tokio::test]
async fn nobody_becomes_master_by_a_signing_request() {
    let chain = World::default().chain(&["CertificateSubjectRestriction"]);
    let create = |pem: &str| {
        use base64::Engine;
        let request64 = base64::engine::general_purpose::STANDARD.encode(pem);
        let object = json!({"metadata": {"name": "c"},
                            "spec": {"signerName": "kubernetes.io/kube-apiserver-client", "request": request64}});
        Request {
            object: Some(object),
            ..request(Create, "certificates.k8s.io", "certificatesigningrequests", "", "c")
        }
    };
    let prefix = "certificatesigningrequests.certificates.k8s.io \"c\" is forbidden: ";
    let masters = include_str!("../tests/data/masters.csr");
    let want = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    assert_eq!(run(&chain, create(masters)).await, Err(format!("{prefix}{want}")));
    let refused = run(&chain, create("junk")).await;
    assert_eq!(
        refused,
        Err(format!(
            "{prefix}failed to parse CSR: PEM block type must be CERTIFICATE REQUEST"
        ))
    );
    assert!(
        run(&chain, create(include_str!("../tests/data/node-1.csr")))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_node_asks_for_certificates_in_its_own_name() {
    use base64::Engine;
    let chain = World::default().chain(&["NodeRestriction"]);
    let encoded = base64::engine::general_purpose::STANDARD.encode(include_str!("../tests/data/node-1.csr"));
    let csr =
        json!({"metadata": {"name": "c"}, "spec": {"signerName": "kubernetes.io/kubelet-serving", "request": encoded}});
    for (node, want) in [
        ("system:node:node-1", Ok(())),
        (
            "system:node:node-2",
            Err(
                "certificatesigningrequests.certificates.k8s.io \"c\" is forbidden: can only create a node CSR with \
                 CN=system:node:node-2"
                    .to_owned(),
            ),
        ),
    ] {
        let mut create = Request {
            object: Some(csr.clone()),
            ..request(Create, "certificates.k8s.io", "certificatesigningrequests", "", "c")
        };
        create.user = user(node, &["system:nodes"]);
        assert_eq!(run(&chain, create).await.map(|_| ()), want);
    }
}

#[tokio::test]
async fn the_newest_default_class_fills_in() {
    let mut world = World::default();
    let storage = |name: &str, made: &str, default: &str| {
        json!({"metadata": {"name": name, "creationTimestamp": made,
               "annotations": {"storageclass.kubernetes.io/is-default-class": default}}})
    };
    for (name, made, default) in [
        ("old", "2026-01-01T00:00:00Z", "true"),
        ("b", "2026-02-01T00:00:00Z", "true"),
        ("a", "2026-02-01T00:00:00Z", "true"),
        ("newest", "2026-03-01T00:00:00Z", "false"),
    ] {
        world.put("storage.k8s.io", "storageclasses", storage(name, made, default));
    }
    let chain = world.chain(&["DefaultStorageClass"]);
    for (spec, want) in [
        (json!({}), json!("a")),
        (json!({"storageClassName": ""}), json!("")),
        (Value::Null, json!("a")),
    ] {
        let claim = json!({"metadata": {}, "spec": spec});
        let create = Request {
            object: Some(claim),
            ..request(Create, "", "persistentvolumeclaims", "ns", "c")
        };
        assert_eq!(
            run(&chain, create).await.map(|c| c["spec"]["storageClassName"].clone()),
            Ok(want)
        );
    }
}

#[tokio::test]
async fn a_runtime_class_adds_its_overhead_and_its_place() {
    let mut world = World::default();
    world.put(
        "node.k8s.io",
        "runtimeclasses",
        json!({"metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "250m"}},
               "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}}),
    );
    let chain = world.chain(&["RuntimeClass"]);
    let own = json!({"key": "vm", "operator": "Equal", "value": "x"});
    let spec = json!({"runtimeClassName": "vm", "nodeSelector": {"disk": "ssd"}, "tolerations": [own]});
    let got = run(&chain, pod(spec)).await.expect("admitted");
    assert_eq!(
        got["spec"],
        json!({"runtimeClassName": "vm", "overhead": {"cpu": "250m"}, "nodeSelector": {"disk": "ssd", "vm": "yes"},
               "tolerations": [{"key": "vm", "operator": "Exists"}]})
    );
    for (spec, want) in [
        (
            json!({"runtimeClassName": "none"}),
            "pod rejected: RuntimeClass \"none\" not found",
        ),
        (
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
        ),
    ] {
        assert_eq!(
            run(&chain, pod(spec)).await,
            Err(format!("pods \"p\" is forbidden: {want}"))
        );
    }
    let same = json!({"runtimeClassName": "vm", "overhead": {"cpu": "0.25"}});
    assert!(run(&chain, pod(same)).await.is_ok());
}
