//! Impersonation: a user acts as another one, if allowed to, and holds that user's rights alone.
//!
//! Since v1.36 there are two ways to be allowed. The constrained ones say what may be done while impersonating
//! (`impersonate-on:<mode>:<verb>` on the request itself) and whom (`impersonate:<mode>`); modes exist for the node that a service
//! account runs on, any node, service accounts, and other users. The old way (`impersonate`) says whom alone, and
//! stays. They are tried in this order; when none allows, the first refusal is the answer. Everything asked for in
//! headers is checked: user, uid, each group, each extra value.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use steersman_schema::field::quote;
use steersman_schema::status::Status;

use crate::authn::unescape;
use crate::authz::{Attributes, Authorizer, forbidden};
use crate::user::{
    ANONYMOUS, AUTHENTICATED, MASTERS, NODE_NAME, NODE_PREFIX, NODES, SERVICE_ACCOUNTS, SERVICE_ACCOUNTS_PREFIX,
    UNAUTHENTICATED, User, UserInfo, split_service_account,
};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// From so many groups or extra values on, one question for all of them is tried first.
const MANY: usize = 4;

/// Whether a header belongs to impersonation: removed from the request afterwards. `name` is lower-case.
pub fn is_header(name: &str) -> bool {
    matches!(name, USER | UID | GROUP) || name.starts_with(EXTRA)
}

/// The user that a request is to be carried out as; `None` when it does not ask for impersonation. `what` is the request,
/// with the authenticated user in it.
///
/// # Errors
/// 400 when headers ask for groups, uid or extra without a user; 403 when the user may not.
pub fn apply(headers: &HeaderMap, what: &Attributes, authorizer: &dyn Authorizer) -> Result<Option<User>, Box<Status>> {
    let Some(wanted) = requested(headers)? else {
        return Ok(None);
    };
    let mut first = None;
    for mode in MODES {
        if !mode.applies(&wanted, &what.user) {
            continue;
        }
        match mode.check(&wanted, what, authorizer) {
            Ok(user) => return Ok(Some(Arc::new(user))),
            Err(refusal) => first = first.or(Some(refusal)),
        }
    }
    Err(first.unwrap_or_else(|| Box::new(Status::internal("all impersonation modes failed"))))
}

/// What the headers ask for, as they say it.
fn requested(headers: &HeaderMap) -> Result<Option<UserInfo>, Box<Status>> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let one = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let mut wanted = UserInfo {
        name: one(USER),
        uid: one(UID),
        ..UserInfo::default()
    };
    wanted.groups = headers.get_all(GROUP).iter().map(text).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            extra.entry(unescape(key)).or_default().push(text(value));
        }
    }
    wanted.extra = extra;
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    if wanted == UserInfo::default() {
        return Ok(None);
    }
    let text = format!("requested {} without impersonating a user name", shown(&wanted));
    Err(Box::new(Status::bad_request(text)))
}

/// A user as Go's `%#v` prints it.
fn shown(user: &UserInfo) -> String {
    let list = |list: &[String]| {
        format!(
            "[]string{{{}}}",
            list.iter().map(|s| quote(s)).collect::<Vec<_>>().join(", ")
        )
    };
    let groups = if user.groups.is_empty() {
        "[]string(nil)".into()
    } else {
        list(&user.groups)
    };
    let pairs: Vec<String> = user
        .extra
        .iter()
        .map(|(key, values)| format!("{}:{}", quote(key), list(values)))
        .collect();
    let extra = if pairs.is_empty() {
        "(nil)".into()
    } else {
        format!("{{{}}}", pairs.join(", "))
    };
    let (name, uid) = (quote(&user.name), quote(&user.uid));
    format!("&user.DefaultInfo{{Name:{name}, UID:{uid}, Groups:{groups}, Extra:map[string][]string{extra}}}")
}

/// One way to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

const MODES: [Mode; 5] = [
    Mode::AssociatedNode,
    Mode::ArbitraryNode,
    Mode::ServiceAccount,
    Mode::UserInfo,
    Mode::Legacy,
];

fn node_of(user: &str) -> Option<&str> {
    let name = user.strip_prefix(NODE_PREFIX)?;
    steersman_schema::name::dns1123_subdomain(name)
        .is_empty()
        .then_some(name)
}

impl Mode {
    /// Its name in verbs; `None` for the old way.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::AssociatedNode => Some("associated-node"),
            Self::ArbitraryNode => Some("arbitrary-node"),
            Self::ServiceAccount => Some("serviceaccount"),
            Self::UserInfo => Some("user-info"),
            Self::Legacy => None,
        }
    }

    fn verb(self) -> String {
        self.name()
            .map_or_else(|| "impersonate".into(), |name| format!("impersonate:{name}"))
    }

    /// Whether this mode is about such a user at all.
    fn applies(self, wanted: &UserInfo, requester: &User) -> bool {
        let bare = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node_of(&wanted.name), split_service_account(&wanted.name));
        match self {
            Self::AssociatedNode => {
                let own = requester.extra.get(NODE_NAME).map(Vec::as_slice);
                let own = if let Some([own]) = own {
                    Some(own.as_str())
                } else {
                    None
                };
                bare && node.is_some() && own == node && split_service_account(&requester.name).is_some()
            }
            Self::ArbitraryNode => bare && node.is_some(),
            Self::ServiceAccount => bare && account.is_some(),
            Self::UserInfo => node.is_none() && account.is_none(),
            Self::Legacy => true,
        }
    }

    fn check(self, wanted: &UserInfo, what: &Attributes, authorizer: &dyn Authorizer) -> Result<UserInfo, Box<Status>> {
        let requester = self.requester(&what.user);
        if let Some(name) = self.name() {
            let verb = format!("impersonate-on:{name}:{}", what.verb);
            ask(
                authorizer,
                &Attributes {
                    user: requester.clone(),
                    verb,
                    ..what.clone()
                },
            )?;
        }
        let question = |group: &str, resource: &str, subresource: &str, name: &str| Attributes {
            user: requester.clone(),
            verb: self.verb(),
            resource_request: true,
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Attributes::default()
        };
        // The old way asks about users and groups as if they were in the core group.
        let group = if self == Self::Legacy { "" } else { AUTHENTICATION };
        let mut user = wanted.clone();
        let mut about = question(group, "users", "", &wanted.name);
        if let (Some(node), false) = (node_of(&wanted.name), self == Self::Legacy) {
            about.resource = "nodes".into();
            about.name = if self == Self::AssociatedNode {
                "*".into()
            } else {
                node.into()
            };
            user.groups = vec![NODES.into()];
        }
        if let Some((namespace, name)) = split_service_account(&wanted.name) {
            about.resource = "serviceaccounts".into();
            about.namespace = namespace.into();
            about.name = name.into();
            if wanted.groups.is_empty() {
                user.groups = vec![SERVICE_ACCOUNTS.into(), format!("{SERVICE_ACCOUNTS_PREFIX}{namespace}")];
            }
        }
        ask(authorizer, &about)?;
        if !wanted.uid.is_empty() {
            ask(authorizer, &question(AUTHENTICATION, "uids", "", &wanted.uid))?;
        }
        self.check_groups(&wanted.groups, authorizer, |name| question(group, "groups", "", name))?;
        self.check_extra(&wanted.extra, authorizer, |key, value| {
            question(AUTHENTICATION, "userextras", key, value)
        })?;
        Ok(with_standard_group(user))
    }

    /// In the associated-node mode the authorizer must not tell one node from another: it sees which extra keys there are.
    fn requester(self, user: &User) -> User {
        if self != Self::AssociatedNode {
            return user.clone();
        }
        let keys: Vec<String> = user.extra.keys().cloned().collect();
        let extra = [("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)].into();
        Arc::new(UserInfo {
            extra,
            ..(**user).clone()
        })
    }

    fn check_groups(
        self,
        groups: &[String],
        authorizer: &dyn Authorizer,
        question: impl Fn(&str) -> Attributes,
    ) -> Result<(), Box<Status>> {
        if self != Self::Legacy {
            let not = |name: &str, why: &str| Err(Box::new(forbidden(&question(name), why)));
            if groups.iter().any(String::is_empty) {
                return not("", "impersonating the empty string group is not allowed");
            }
            if groups.iter().any(|g| g == MASTERS) {
                return not(MASTERS, "impersonating the system:masters group is not allowed");
            }
            if groups.len() >= MANY && authorizer.authorize(&question("*")).allowed() {
                return Ok(());
            }
        }
        groups.iter().try_for_each(|group| ask(authorizer, &question(group)))
    }

    fn check_extra(
        self,
        extra: &BTreeMap<String, Vec<String>>,
        authorizer: &dyn Authorizer,
        question: impl Fn(&str, &str) -> Attributes,
    ) -> Result<(), Box<Status>> {
        if self != Self::Legacy {
            if let Some(why) = extra.iter().find_map(|(key, values)| fault_of_extra(key, values)) {
                return Err(Box::new(forbidden(&question("", ""), &why)));
            }
            let many = extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && authorizer.authorize(&question("*", "*")).allowed() {
                return Ok(());
            }
        }
        let mut all = extra
            .iter()
            .flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
        all.try_for_each(|(key, value)| ask(authorizer, &question(key, value)))
    }
}

fn fault_of_extra(key: &str, values: &[String]) -> Option<String> {
    let domain = key
        .split_once('/')
        .filter(|(domain, path)| steersman_schema::name::dns1123_subdomain(domain).is_empty() && !path.is_empty());
    if key.is_empty() {
        Some("impersonating the empty string key in extra is not allowed".into())
    } else if domain.is_none() {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        let shown = quote(key);
        Some(format!(
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {shown}: {detail}"
        ))
    } else if key.chars().any(char::is_uppercase) {
        Some(format!(
            "impersonating a non-lowercase key in extra is not allowed: {key:?}"
        ))
    } else if values.iter().any(String::is_empty) {
        Some("impersonating the empty string value in extra is not allowed".into())
    } else {
        None
    }
}

/// Adds the group that says whether the user counts as authenticated.
fn with_standard_group(mut user: UserInfo) -> UserInfo {
    let group = if user.name == ANONYMOUS {
        UNAUTHENTICATED
    } else if user.has_group(UNAUTHENTICATED) {
        return user;
    } else {
        AUTHENTICATED
    };
    if !user.has_group(group) {
        user.groups.push(group.into());
    }
    user
}

fn ask(authorizer: &dyn Authorizer, what: &Attributes) -> Result<(), Box<Status>> {
    let outcome = authorizer.authorize(what);
    if outcome.allowed() {
        return Ok(());
    }
    let reason = outcome.reason.as_str();
    let why = match outcome.error {
        Some(error) if reason.is_empty() => error,
        Some(error) => format!("{error}: {reason}"),
        None => reason.to_owned(),
    };
    Err(Box::new(forbidden(what, &why)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::{Outcome, Reason, Rules};

    /// Allows exactly these: `verb group/resource/subresource namespace name`.
    struct Only(Vec<&'static str>);

    impl Authorizer for Only {
        fn authorize(&self, what: &Attributes) -> Outcome {
            let resource = [what.group.as_str(), &what.resource, &what.subresource];
            let asked = format!("{} {} {} {}", what.verb, resource.join("/"), what.namespace, what.name);
            if self.0.contains(&asked.trim()) {
                Outcome::allow(Reason::default())
            } else {
                Outcome::no_opinion("")
            }
        }

        fn rules_for(&self, _: &User, _: &str) -> Rules {
            Rules::default()
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().expect("header"));
        }
        map
    }

    fn as_whom(
        pairs: &[(&'static str, &str)],
        requester: UserInfo,
        allowed: &[&'static str],
    ) -> Result<String, String> {
        let what = Attributes {
            user: Arc::new(requester),
            verb: "list".into(),
            resource_request: true,
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "ns".into(),
            ..Attributes::default()
        };
        let user = apply(&headers(pairs), &what, &Only(allowed.to_vec())).map_err(|s| s.to_string())?;
        Ok(user
            .map(|u| format!("{} {} {:?} {:?}", u.name, u.uid, u.groups, u.extra))
            .unwrap_or_default())
    }

    #[test]
    fn the_old_way_asks_for_each_thing() {
        let bob = || UserInfo::named("bob");
        assert_eq!(as_whom(&[], bob(), &[]), Ok(String::new()));
        let all = &[
            "impersonate /users/  alice",
            "impersonate authentication.k8s.io/uids/  7",
            "impersonate /groups/  dev",
            "impersonate authentication.k8s.io/userextras/acme.io/team  red",
        ];
        let wanted = [
            ("impersonate-user", "alice"),
            ("impersonate-uid", "7"),
            ("impersonate-group", "dev"),
            ("impersonate-extra-acme.io%2fteam", "red"),
        ];
        let want = r#"alice 7 ["dev", "system:authenticated"] {"acme.io/team": ["red"]}"#;
        assert_eq!(as_whom(&wanted, bob(), all), Ok(want.into()));
        for missing in 0..all.len() {
            let some: Vec<&str> = all
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != missing)
                .map(|(_, a)| *a)
                .collect();
            assert!(as_whom(&wanted, bob(), &some).is_err(), "{}", all[missing]);
        }
        let account = [("impersonate-user", "system:serviceaccount:ns:a")];
        let want = r#"system:serviceaccount:ns:a  ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"] {}"#;
        assert_eq!(
            as_whom(&account, bob(), &["impersonate /serviceaccounts/ ns a"]),
            Ok(want.into())
        );
        let nobody = [("impersonate-user", "system:anonymous")];
        let want = r#"system:anonymous  ["system:unauthenticated"] {}"#;
        assert_eq!(
            as_whom(&nobody, bob(), &["impersonate /users/  system:anonymous"]),
            Ok(want.into())
        );
    }

    #[test]
    fn groups_without_a_user_are_a_bad_request() {
        let refused = as_whom(&[("impersonate-group", "system:masters")], UserInfo::named("bob"), &[]);
        let want = "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"system:masters\"}, \
                    Extra:map[string][]string(nil)} without impersonating a user name";
        assert_eq!(refused, Err(want.into()));
    }

    #[test]
    fn the_constrained_way_needs_whom_and_what() {
        let bob = || UserInfo::named("bob");
        let alice = [("impersonate-user", "alice")];
        let whom = "impersonate:user-info authentication.k8s.io/users/  alice";
        let what = "impersonate-on:user-info:list /pods/ ns";
        assert_eq!(
            as_whom(&alice, bob(), &[whom, what]),
            Ok(r#"alice  ["system:authenticated"] {}"#.into())
        );
        let refused = r#"pods is forbidden: User "bob" cannot impersonate-on:user-info:list resource "pods" in API group "" in the namespace "ns""#;
        assert_eq!(as_whom(&alice, bob(), &[whom]), Err(refused.into()));
        assert!(as_whom(&alice, bob(), &[what]).is_err());
        let masters = [("impersonate-user", "alice"), ("impersonate-group", "system:masters")];
        let group = "impersonate:user-info authentication.k8s.io/groups/  system:masters";
        let refused = as_whom(&masters, bob(), &[whom, what, group]).expect_err("masters");
        assert!(
            refused.ends_with(": impersonating the system:masters group is not allowed"),
            "{refused}"
        );

        let node = [("impersonate-user", "system:node:n1")];
        let on = "impersonate-on:associated-node:list /pods/ ns";
        let any = "impersonate:associated-node authentication.k8s.io/nodes/  *";
        let agent = |node: &str| {
            let mut agent = UserInfo::service_account("ns", "agent", "u");
            agent.extra.insert(NODE_NAME.into(), vec![node.into()]);
            agent
        };
        let want = r#"system:node:n1  ["system:nodes", "system:authenticated"] {}"#;
        assert_eq!(as_whom(&node, agent("n1"), &[on, any]), Ok(want.into()));
        assert!(as_whom(&node, agent("n2"), &[on, any]).is_err());
    }
}
