//! The user of an image: the `User` of its configuration, looked up in its users and groups. Pure.

use serde::{Deserialize, Serialize};

/// The files of users and groups of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub(crate) passwd: String,
    /// `/etc/group`.
    pub(crate) group: String,
}

/// A user other than root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundUser {
    /// The uid.
    pub(crate) uid: u32,
    /// The primary group.
    pub(crate) gid: u32,
    /// The name; `None` for a number that has no name.
    pub(crate) name: Option<String>,
}

fn field(line: &str, index: usize) -> &str {
    line.split(':').nth(index).unwrap_or_default()
}

/// Looks up `USER[:GROUP]`, each a name or a number; `None` if it means root. As in container engines, a number that no
/// user has is valid, with the group 0.
pub(crate) fn find_user(user: &str, accounts: &Accounts) -> Result<Option<FoundUser>, String> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let by = |index: usize, text: &str| {
        accounts
            .passwd
            .lines()
            .find(|line| field(line, index) == text)
    };
    let number = user.parse::<u32>().ok();
    let line = by(0, user)
        .filter(|_| !user.is_empty())
        .or_else(|| by(2, &number?.to_string()));
    let (uid, gid, name) = match (line, number) {
        (Some(line), _) => {
            let uid = field(line, 2)
                .parse()
                .map_err(|_| format!("its line in /etc/passwd is {line:?}"))?;
            (
                uid,
                field(line, 3).parse().unwrap_or(0),
                Some(field(line, 0).to_owned()),
            )
        }
        (None, Some(uid)) => (uid, 0, None),
        (None, None) if user.is_empty() => (0, 0, None),
        (None, None) => return Err(format!("there is no user {user} in its /etc/passwd")),
    };
    let gid = match group {
        None => gid,
        Some(group) => {
            let line = accounts.group.lines().find(|line| field(line, 0) == group);
            let found = line.and_then(|line| field(line, 2).parse().ok());
            let found = found.or_else(|| group.parse().ok());
            found.ok_or_else(|| format!("there is no group {group} in its /etc/group"))?
        }
    };
    // To the kernel this number means "no change".
    if uid == u32::MAX || gid == u32::MAX {
        return Err(format!("{} is no valid uid or gid", u32::MAX));
    }
    Ok((uid != 0).then_some(FoundUser { uid, gid, name }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        let accounts = Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\napp:x:7:8::/app:/bin/sh\n99:x:5:6::/:/bin/sh\n"
                .into(),
            group: "root:x:0:\nweb:x:80:app\n".into(),
        };
        let is = |uid, gid, name: Option<&str>| {
            Ok(Some(FoundUser {
                uid,
                gid,
                name: name.map(str::to_owned),
            }))
        };
        let cases = [
            ("", Ok(None)),
            ("root", Ok(None)),
            ("0:80", Ok(None)),
            ("app", is(7, 8, Some("app"))),
            ("7", is(7, 8, Some("app"))),
            ("app:web", is(7, 80, Some("app"))),
            ("app:", is(7, 8, Some("app"))),
            ("1234", is(1234, 0, None)),
            ("1234:5", is(1234, 5, None)),
            ("99", is(5, 6, Some("99"))),
        ];
        for (user, expected) in cases {
            assert_eq!(find_user(user, &accounts), expected, "{user:?}");
        }
        for (user, said) in [
            ("missing", "no user missing"),
            ("app:x", "no group x"),
            ("4294967295", "no valid uid"),
        ] {
            assert!(find_user(user, &accounts).unwrap_err().contains(said));
        }
        assert_eq!(find_user("12", &Accounts::default()), is(12, 0, None));
    }
}
