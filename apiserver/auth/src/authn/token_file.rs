//! The static token file (`--token-auth-file`): `token,user,uid[,"group1,group2"]` per line. Test set-ups use it.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::user::UserInfo;

/// Tokens and their users. Tokens are kept as hashes, so that finding one takes the same time however much of it matches.
#[derive(Debug, Default)]
pub struct TokenFile {
    users: HashMap<[u8; 32], UserInfo>,
}

impl TokenFile {
    /// # Errors
    /// A line with fewer than three columns, an empty token, or a quote that does not end.
    pub fn parse(csv: &str) -> Result<Self, String> {
        let mut users = HashMap::new();
        for (number, line) in csv.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let at = number + 1;
            let columns = columns(line).ok_or_else(|| format!("token file: line {at}: a quote does not end"))?;
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                let found = columns.len();
                return Err(format!(
                    "token file must have at least 3 columns (token, user name, user uid), found {found} in line {at}"
                ));
            };
            if token.is_empty() {
                return Err(format!("token file: line {at}: empty token"));
            }
            let groups = rest.first().map(String::as_str).unwrap_or_default();
            let groups = if groups.is_empty() {
                Vec::new()
            } else {
                groups.split(',').map(str::to_owned).collect()
            };
            let user = UserInfo {
                name: name.clone(),
                uid: uid.clone(),
                groups,
                ..UserInfo::default()
            };
            // The first line with a token wins, as upstream's map keeps the last: a repeated token is refused instead.
            if users.insert(hash(token), user).is_some() {
                return Err(format!("token file: line {at}: repeats a token"));
            }
        }
        Ok(Self { users })
    }

    pub(super) fn user(&self, token: &str) -> Option<UserInfo> {
        self.users.get(&hash(token)).cloned()
    }
}

pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The columns of one line: separated by commas, optionally quoted, a doubled quote standing for one; `None` when a quote
/// does not end.
fn columns(line: &str) -> Option<Vec<String>> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.trim_end_matches('\r').chars().peekable();
    while let Some(c) = chars.next() {
        let last = out.last_mut()?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                last.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if last.trim().is_empty() => {
                last.clear();
                quoted = true;
            }
            ',' if !quoted => out.push(String::new()),
            c => last.push(c),
        }
    }
    (!quoted).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_user_uid_and_groups() {
        let file = TokenFile::parse("admin-token,admin,admin,system:masters\nabc,bob,7,\"a,b\"\n\n").expect("valid");
        assert_eq!(
            file.user("abc").map(|u| (u.name, u.uid, u.groups)),
            Some(("bob".into(), "7".into(), vec!["a".into(), "b".into()]))
        );
        assert_eq!(
            file.user("admin-token").map(|u| u.groups),
            Some(vec!["system:masters".to_owned()])
        );
        assert_eq!(file.user("ab"), None);
        assert_eq!(file.user(""), None);
    }

    #[test]
    fn a_broken_file_is_refused_with_its_line() {
        for (csv, want) in [
            (
                "a,b",
                "token file must have at least 3 columns (token, user name, user uid), found 2 in line 1",
            ),
            ("a,b,c\n,b,c", "token file: line 2: empty token"),
            ("a,b,\"c", "token file: line 1: a quote does not end"),
            ("a,b,c\na,x,y", "token file: line 2: repeats a token"),
        ] {
            assert_eq!(TokenFile::parse(csv).map(|_| ()), Err(want.to_owned()));
        }
    }
}
