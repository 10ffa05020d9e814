//! Judges changes to real directories. [`attacks`] and [`ordinary`] are lists of changes, as data.

mod attacks;
mod ordinary;
mod planned;
mod properties;
mod repository;
mod settings;
mod tree;

use crate::protection::{Effect, Protection, Protects, TABLE};

use super::*;
use tree::Tree;

/// The rules by default.
fn rules() -> Rules {
    Rules::new(&Protection::default()).unwrap()
}

/// The rules with other effects.
fn with(effects: &[(&str, Effect)]) -> Rules {
    let rules = effects
        .iter()
        .map(|(id, effect)| ((*id).to_owned(), *effect))
        .collect();
    Rules::new(&Protection {
        rules,
        ..Protection::default()
    })
    .unwrap()
}

fn create(path: &str) -> Change<'_> {
    Change::Create {
        path: path.as_bytes(),
        kind: Kind::File,
    }
}

fn rule(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Allow => "",
        Verdict::Deny(finding) | Verdict::Ask(finding) => finding.rule,
    }
}

#[test]
fn a_rule_has_the_effect_that_the_settings_give_it() {
    let tree = Tree::new(&[".git/"]);
    let hook = create(".git/hooks/pre-commit");
    let verdict = rules().check(&hook, &tree);
    assert_eq!(
        verdict,
        Verdict::Deny(Finding {
            rule: "git-hooks",
            what: ".git/hooks/pre-commit".into()
        })
    );
    let asking = with(&[("git-hooks", Effect::Ask)]);
    assert!(matches!(asking.check(&hook, &tree), Verdict::Ask(_)));
    let allowing = with(&[("git-hooks", Effect::Allow)]);
    assert_eq!(allowing.check(&hook, &tree), Verdict::Allow);
    assert_eq!(
        rule(&allowing.check(&create(".claude/settings.json"), &tree)),
        "claude"
    );
}

#[test]
fn the_strictest_of_several_rules_decides() {
    let tree = Tree::new(&[]);
    let both = create(".claude/.vscode/tasks.json");
    let allowing = with(&[("claude", Effect::Allow)]);
    assert_eq!(rule(&allowing.check(&both, &tree)), "vscode");
    let asking = with(&[("claude", Effect::Ask), ("vscode", Effect::Deny)]);
    assert!(matches!(asking.check(&both, &tree), Verdict::Deny(_)));
    // The same for what a moved directory contains.
    let tree = Tree::new(&[
        "x/a.lock=",
        "x/config=[alias]\na = !b\n[core]\npager = c\n",
        "x/hooks/post-checkout=",
    ]);
    let moved = Change::Rename {
        from: b"x",
        to: b".git",
        exchange: false,
    };
    for last in ["git-aliases", "git-settings", "git-hooks"] {
        let effects: Vec<_> = ["git-aliases", "git-settings", "git-hooks"]
            .into_iter()
            .map(|id| (id, [Effect::Allow, Effect::Deny][usize::from(id == last)]))
            .collect();
        assert_eq!(rule(&with(&effects).check(&moved, &tree)), last);
        let effects: Vec<_> = effects
            .into_iter()
            .map(|(id, effect)| {
                (
                    id,
                    [effect, Effect::Ask][usize::from(effect == Effect::Allow)],
                )
            })
            .collect();
        let verdict = with(&effects).check(&moved, &tree);
        assert!(
            matches!(&verdict, Verdict::Deny(it) if it.rule == last),
            "{verdict:?}"
        );
    }
}

#[test]
fn settings_with_an_unknown_rule_or_a_wrong_pattern_are_refused() {
    let mut settings = Protection::default();
    settings.rules.insert("git-hook".into(), Effect::Allow);
    let said = Rules::new(&settings).unwrap_err().to_string();
    assert_eq!(said, "there is no rule \"git-hook\"");
    let settings = Protection {
        hide: vec!["a".into(), "[".into()],
        ..Protection::default()
    };
    let said = Rules::new(&settings).unwrap_err().to_string();
    assert!(said.starts_with("hide[1] (\"[\"): "), "{said}");
    // Fixed rules can't be turned off.
    for id in [READ_ONLY, HIDE, TOO_LONG, UNCHECKED] {
        let mut settings = Protection::default();
        settings.rules.insert(id.into(), Effect::Allow);
        Rules::new(&settings).unwrap_err();
    }
}

#[test]
fn every_rule_of_the_table_is_named_once_and_says_why() {
    let mut ids: Vec<_> = TABLE.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), TABLE.len());
    for row in TABLE {
        let id = |byte| matches!(byte, b'a'..=b'z' | b'-');
        assert!(row.id.bytes().all(id), "{}", row.id);
        assert!(row.why.len() > 20 && !row.why.ends_with('.'), "{}", row.id);
        assert_eq!(row.default, Effect::Deny, "{}", row.id);
    }
}

#[test]
fn every_protected_name_is_protected_at_any_depth_and_in_any_case() {
    let tree = Tree::new(&["a/b/.git/", "a/x="]);
    for row in TABLE {
        let (Protects::Names(names) | Protects::InGitDirectory(names)) = row.protects else {
            continue;
        };
        let at = match row.protects {
            Protects::InGitDirectory(_) => "a/b/.git/",
            _ => "",
        };
        for name in names {
            for path in [
                format!("{at}{}", name.replace('*', "x")),
                format!("{at}{}", name.replace('*', "X").to_uppercase()),
                format!("{at}{}/below/it", name.replace('*', "")),
                format!("a/b/{at}{}", name.replace('*', "y")).replace("a/b/a/b", "a/b"),
            ] {
                let path = path.as_bytes();
                for change in [
                    Change::Create {
                        path,
                        kind: Kind::File,
                    },
                    Change::Symlink { path, target: b"x" },
                    Change::Link {
                        from: b"a/x",
                        to: path,
                    },
                    Change::Write {
                        path,
                        offset: 0,
                        data: b"x",
                    },
                    Change::Truncate { path, size: 0 },
                    Change::Rename {
                        from: b"a/x",
                        to: path,
                        exchange: false,
                    },
                ] {
                    let verdict = rules().check(&change, &tree);
                    assert_eq!(rule(&verdict), row.id, "{change:?}");
                }
            }
        }
    }
}

#[test]
fn a_read_only_share_refuses_every_change() {
    let settings = Protection {
        read_only: true,
        rules: TABLE
            .iter()
            .map(|row| (row.id.to_owned(), Effect::Allow))
            .collect(),
        ..Protection::default()
    };
    let rules = Rules::new(&settings).unwrap();
    let tree = Tree::new(&["a=x"]);
    for change in ordinary::one_of_each() {
        assert_eq!(rule(&rules.check(&change, &tree)), READ_ONLY, "{change:?}");
    }
}

#[test]
fn a_hidden_file_can_be_neither_changed_nor_moved_into_sight() {
    let settings = Protection {
        hide: vec![".env".into(), "secrets/key".into()],
        ..Protection::default()
    };
    let rules = Rules::new(&settings).unwrap();
    let tree = Tree::new(&[
        ".env=x",
        "a/.env=x",
        "secrets/key=x",
        "p/secrets/key=x",
        "q/r/key=",
    ]);
    assert!(rules.hides(b".env") && rules.hides(b"a/.ENV/x") && rules.hides(b"secrets/key"));
    assert!(!rules.hides(b"secrets") && !rules.hides(b"p/secrets/key"));
    let moved = |from, to| Change::Rename {
        from,
        to,
        exchange: false,
    };
    for change in [
        create(".env"),
        create("new/.env"),
        Change::Remove { path: b".env" },
        Change::Attributes { path: b"a/.env" },
        Change::Write {
            path: b".env",
            offset: 0,
            data: b"x",
        },
        Change::Link {
            from: b".env",
            to: b"seen",
        },
        Change::Link {
            from: b"a/x",
            to: b".env",
        },
        Change::Symlink {
            path: b"secrets/key",
            target: b"x",
        },
        moved(b".env", b"seen"),
        moved(b"q/r/key", b".env"),
        // What the directory contains would be seen, or vanish.
        moved(b"secrets", b"seen"),
        moved(b"q/r", b"secrets"),
        Change::Rename {
            from: b"q",
            to: b"secrets",
            exchange: true,
        },
    ] {
        assert_eq!(rule(&rules.check(&change, &tree)), HIDE, "{change:?}");
    }
    for change in [
        moved(b"a", b"b"),
        moved(b"p", b"x"),
        moved(b"q/r", b"r"),
        Change::Symlink {
            path: b"link",
            target: b".env",
        },
    ] {
        assert_eq!(rules.check(&change, &tree), Verdict::Allow, "{change:?}");
    }
}

#[test]
fn a_directory_too_large_to_search_is_not_moved_where_it_counts() {
    /// A directory of more files than are searched.
    struct Large(Outside);
    impl Look for Large {
        fn outside(&self) -> &Outside {
            &self.0
        }
        fn read(&self, _: &[u8], _: usize) -> io::Result<Option<Vec<u8>>> {
            Ok(None)
        }
        fn kind(&self, path: &[u8]) -> io::Result<Option<Kind>> {
            Ok(match path {
                b"a" | b"a/b" => Some(Kind::Directory),
                _ if path.starts_with(b"a/b/") && !path.ends_with(b"commondir") => Some(Kind::File),
                _ => None,
            })
        }
        fn links(&self, _: &[u8]) -> io::Result<u64> {
            Ok(1)
        }
        fn list(&self, dir: &[u8], at_most: usize) -> io::Result<Vec<Vec<u8>>> {
            let names = (0..60_000)
                .take(at_most + 1)
                .map(|n| format!("{n}").into_bytes());
            Ok(match dir {
                b"a/b" => names.collect(),
                _ => Vec::new(),
            })
        }
    }
    let large = Large(Outside::default());
    let verdict = rules().check(
        &Change::Rename {
            from: b"a/b",
            to: b".git",
            exchange: false,
        },
        &large,
    );
    let Verdict::Deny(finding) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(finding.rule, UNCHECKED);
    assert!(
        finding.what.contains("more than 50000 files"),
        "{}",
        finding.what
    );
    // Where no name counts, nothing is searched.
    let plain = Change::Rename {
        from: b"a/b",
        to: b"a/c",
        exchange: false,
    };
    assert_eq!(rules().check(&plain, &large), Verdict::Allow);
}

#[test]
fn a_tree_that_cannot_be_read_is_not_changed_where_that_counts() {
    struct Broken(Outside);
    impl Look for Broken {
        fn outside(&self) -> &Outside {
            &self.0
        }

        fn read(&self, _: &[u8], _: usize) -> io::Result<Option<Vec<u8>>> {
            Err(io::ErrorKind::Other.into())
        }
        fn kind(&self, _: &[u8]) -> io::Result<Option<Kind>> {
            Err(io::ErrorKind::Other.into())
        }
        fn links(&self, _: &[u8]) -> io::Result<u64> {
            Err(io::ErrorKind::Other.into())
        }
        fn list(&self, _: &[u8], _: usize) -> io::Result<Vec<Vec<u8>>> {
            Err(io::ErrorKind::Other.into())
        }
    }
    let broken = Broken(Outside::default());
    let write = Change::Write {
        path: b".git/config",
        offset: 0,
        data: b"x",
    };
    assert_eq!(rule(&rules().check(&write, &broken)), UNCHECKED);
    let write = Change::Write {
        path: b"src/main.rs",
        offset: 0,
        data: b"x",
    };
    assert_eq!(rules().check(&write, &broken), Verdict::Allow);
}

#[test]
fn a_path_too_long_to_check_is_refused() {
    let tree = Tree::new(&[]);
    let deep = vec!["a"; DEEPEST + 1].join("/");
    assert_eq!(rule(&rules().check(&create(&deep), &tree)), TOO_LONG);
    let long = "a".repeat(LONGEST + 1);
    assert_eq!(rule(&rules().check(&create(&long), &tree)), TOO_LONG);
}
