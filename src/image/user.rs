//! Who an image's commands expect to be: the `User` of its configuration, found among its users and groups. Pure.

use serde::{Deserialize, Serialize};

/// An image's users and groups, as its files have them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

/// A user that isn't root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The uid.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The name, where it has one.
    pub name: Option<String>,
}

fn field(line: &str, index: usize) -> &str {
    line.split(':').nth(index).unwrap_or_default()
}

/// Finds what `USER[:GROUP]` means, each a name or a number; nothing where it means root. A number nobody has is as
/// good as any, with the group 0, as container engines have it.
pub fn resolve(user: &str, accounts: &Accounts) -> Result<Option<Resolved>, String> {
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
    // The number that stands for none at all.
    if uid == u32::MAX || gid == u32::MAX {
        return Err(format!("{} is nobody's number", u32::MAX));
    }
    Ok((uid != 0).then_some(Resolved { uid, gid, name }))
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
            Ok(Some(Resolved {
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
            assert_eq!(resolve(user, &accounts), expected, "{user:?}");
        }
        for (user, said) in [
            ("nobody", "no user nobody"),
            ("app:x", "no group x"),
            ("4294967295", "nobody's number"),
        ] {
            assert!(resolve(user, &accounts).unwrap_err().contains(said));
        }
        assert_eq!(resolve("12", &Accounts::default()), is(12, 0, None));
    }
}
