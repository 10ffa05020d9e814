//! Names of tools: unique among all servers, and of a form that every provider accepts. Pure.

use sha2::{Digest, Sha256};

/// The longest name that every provider accepts, in bytes.
const LONGEST: usize = 64;

/// The name under which a model knows a server's tool; `server` is empty for Snowglobe's own, whose names stay as they are.
pub(super) fn exposed(server: &str, tool: &str, taken: impl Fn(&str) -> bool) -> String {
    let plain = match server {
        "" => clean(tool),
        server => format!("{}__{}", clean(server), clean(tool)),
    };
    if (1..=LONGEST).contains(&plain.len()) && !taken(&plain) {
        return plain;
    }
    // A part of a hash tells apart what would have one name, and a name keeps it from session to session.
    let hash = hex::encode(Sha256::digest(format!("{server}\0{tool}")));
    (8..=hash.len())
        .map(|digits| {
            let kept: String = plain.chars().take(LONGEST - digits - 1).collect();
            format!("{kept}_{}", &hash[..digits])
        })
        .find(|name| name.len() <= LONGEST && !taken(name))
        .unwrap_or(plain)
}

fn clean(name: &str) -> String {
    let fit = |c: char| match c.is_ascii_alphanumeric() || matches!(c, '_' | '-') {
        true => c,
        false => '_',
    };
    name.chars().take(LONGEST * 2).map(fit).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_tell_their_server_where_it_is_not_snowglobe() {
        let none = |_: &str| false;
        assert_eq!(exposed("", "exec", none), "exec");
        assert_eq!(
            exposed("my files", "read.file", none),
            "my_files__read_file"
        );
        let other = exposed("a", "b.c", |name| name == "a__b_c");
        assert!(other.starts_with("a__b_c_") && other.len() == 15, "{other}");
    }

    proptest! {
        #[test]
        fn every_tool_has_a_name_of_its_own(tools in prop::collection::vec(("[a-c.]{0,3}", "[a-b.é]{0,80}"), 0..30)) {
            let mut taken = BTreeSet::new();
            let mut seen = BTreeSet::new();
            for (server, tool) in tools {
                if seen.insert((server.clone(), tool.clone())) {
                    let name = exposed(&server, &tool, |name| taken.contains(name));
                    prop_assert!((1..=LONGEST).contains(&name.len()), "{name}");
                    prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-'));
                    prop_assert!(taken.insert(name));
                }
            }
        }
    }
}
