//! What git and other programs request in a day's work, as a trace of their system calls shows it. Each change is allowed,
//! then made.

use super::super::{Change, Kind, Verdict};
use super::rules;
use super::tree::Tree;

/// The changes of one command. A line is a verb and its paths:
///
/// ```text
/// dir P        file P        put P TEXT (a new file and its contents)      set P TEXT (written to a lock, then renamed)
/// link P TO    hard P TO     move P TO    swap P TO    remove P    mode P    cut P SIZE    write P TEXT
/// ```
pub(super) struct Work {
    pub(super) what: &'static str,
    pub(super) tree: &'static [&'static str],
    pub(super) changes: &'static str,
}

const INIT: &str = "\
dir r/.git
put r/.git/description Unnamed
dir r/.git/hooks
put r/.git/hooks/pre-commit.sample #!/bin/sh
mode r/.git/hooks/pre-commit.sample
put r/.git/hooks/fsmonitor-watchman.sample #!/bin/sh
dir r/.git/branches
dir r/.git/info
put r/.git/info/exclude #
set r/.git/config [core]\\n\\trepositoryformatversion = 0\\n
mode r/.git/config
set r/.git/config [core]\\n\\trepositoryformatversion = 0\\n\\tfilemode = true\\n\\tbare = false\\n
file r/.git/tXXXXXX
remove r/.git/tXXXXXX
link r/.git/tXXXXXX testing
remove r/.git/tXXXXXX
dir r/.git/refs
dir r/.git/refs/heads
dir r/.git/refs/tags
set r/.git/HEAD ref: refs/heads/main\\n
dir r/.git/objects
dir r/.git/objects/pack
dir r/.git/objects/info";

pub(super) const WORKS: &[Work] = &[
    Work { what: "git init", tree: &["r/"], changes: INIT },
    Work {
        what: "git init --bare",
        tree: &["b/"],
        changes: "\
dir b/hooks
put b/hooks/update.sample x
dir b/branches
set b/config [core]\\n\\tbare = true\\n
dir b/refs
set b/HEAD ref: refs/heads/main\\n
dir b/objects
set b/config [core]\\n\\tbare = true\\n[remote \"o\"]\\n\\turl = https://example.com/x\\n
dir b/refs/heads
dir b/refs/heads/hooks
put b/refs/heads/hooks/x 99c6",
    },
    Work {
        what: "git commit, branch, remote add, config, gc",
        tree: &["r/.git/config=[core]\n\tbare = false\n", "r/.git/HEAD=x", "r/.git/objects/", "r/.git/refs/heads/", "r/.git/logs/"],
        changes: "\
dir r/.git/objects/aa
put r/.git/objects/aa/tmp_obj_1 x
hard r/.git/objects/aa/tmp_obj_1 r/.git/objects/aa/bb
remove r/.git/objects/aa/tmp_obj_1
put r/.git/objects/aa/tmp_obj_2 x
move r/.git/objects/aa/tmp_obj_2 r/.git/objects/aa/cc
set r/.git/index DIRC
put r/.git/COMMIT_EDITMSG x
set r/.git/refs/heads/main 99c6
set r/.git/refs/heads/config 99c6
dir r/.git/refs/heads/feature
dir r/.git/refs/heads/feature/hooks
set r/.git/refs/heads/feature/hooks/x 99c6
put r/.git/logs/HEAD 0000
set r/.git/config [core]\\n\\tbare = false\\n[remote \"origin\"]\\n\\turl = git@example.com:a/b.git\\n\\tfetch = +refs/heads/*:refs/remotes/origin/*\\n
set r/.git/config [core]\\n\\tbare = false\\n[branch \"main\"]\\n\\tremote = origin\\n\\tmerge = refs/heads/main\\n\\trebase = true\\n
set r/.git/config [user]\\n\\tname = A ; B\\n\\temail = \"a@b\"\\n[http]\\n\\tpostBuffer = 524288000\\n[pull]\\n\\trebase = true\\n
set r/.git/config [core]\\n\\tfsmonitor = true\\n\\tautocrlf = input\\n[pager]\\n\\tlog = false\\n[diff]\\n\\ttool = vimdiff\\n
cut r/.git/config 0
write r/.git/config [user]\\n\\tname = x\\n
put r/.git/gc.pid 1
put r/.git/objects/pack-1.tmp x
remove r/.git/objects/aa/bb
remove r/.git/gc.pid
set r/.git/packed-refs x",
    },
    Work {
        what: "git rebase, stash, bisect",
        tree: &["r/.git/config=", "r/.git/HEAD=x", "r/.git/objects/", "r/.git/refs/"],
        changes: "\
dir r/.git/rebase-merge
put r/.git/rebase-merge/git-rebase-todo pick 99c6 exec the plan\\nreword 99c7 x\\n# x, exec <command>\\n
put r/.git/rebase-merge/git-rebase-todo.backup x
put r/.git/rebase-merge/strategy ort
set r/.git/rebase-merge/done pick
cut r/.git/rebase-merge/git-rebase-todo 0
remove r/.git/rebase-merge/git-rebase-todo
remove r/.git/rebase-merge/git-rebase-todo.backup
remove r/.git/rebase-merge/strategy
remove r/.git/rebase-merge/done
remove r/.git/rebase-merge
set r/.git/refs/stash 99
put r/.git/BISECT_LOG x",
    },
    Work {
        what: "git worktree add and remove",
        tree: &["r/.git/config=", "r/.git/HEAD=x", "r/.git/objects/", "r/.git/refs/"],
        changes: "\
dir r/.git/worktrees
dir r/.git/worktrees/w
put r/.git/worktrees/w/locked initializing
dir w
put r/.git/worktrees/w/gitdir /workspace/w/.git\\n
put w/.git gitdir: /workspace/r/.git/worktrees/w\\n
put r/.git/worktrees/w/commondir ../..\\n
dir r/.git/worktrees/w/refs
set r/.git/worktrees/w/HEAD ref: refs/heads/w\\n
set r/.git/worktrees/w/index DIRC
put w/a x
move w v
put r/.git/worktrees/w/gitdir.lock /workspace/v/.git\\n
move r/.git/worktrees/w/gitdir.lock r/.git/worktrees/w/gitdir
remove v/a
remove v/.git
remove v
remove r/.git/worktrees/w/index
remove r/.git/worktrees/w/commondir
remove r/.git/worktrees/w/HEAD",
    },
    Work {
        what: "git submodule add, update, deinit",
        tree: &["r/.git/config=", "r/.git/HEAD=x", "r/.git/objects/", "r/.git/refs/", "r/sub/"],
        changes: "\
dir r/.git/modules
dir r/.git/modules/sub
dir r/.git/modules/sub/hooks
put r/.git/modules/sub/hooks/pre-push.sample x
set r/.git/modules/sub/config [core]\\n\\tbare = false\\n
dir r/.git/modules/sub/objects
put r/.git/modules/sub/HEAD ref: refs/heads/.invalid\\n
dir r/.git/modules/sub/refs
set r/.git/modules/sub/config [remote \"origin\"]\\n\\turl = /workspace/r\\n
put r/sub/.git gitdir: ../.git/modules/sub\\n
set r/.git/modules/sub/config [core]\\n\\tworktree = ../../../sub\\n[remote \"origin\"]\\n\\turl = https://example.com/x\\n
set r/.git/config [submodule \"sub\"]\\n\\turl = https://example.com/x\\n\\tactive = true\\n\\tupdate = rebase\\n
set r/.gitmodules [submodule \"sub\"]\\n\\tpath = sub\\n
remove r/sub/.git
remove r/.git/modules/sub/hooks/pre-push.sample
remove r/.git/modules/sub/hooks
remove r/.git/modules/sub/config
move r r2",
    },
    Work {
        what: "settings that the host made stay, or go",
        tree: &["r/.git/config=[core]\n\tsshCommand = ssh -i k\n[filter \"lfs\"]\n\tclean = git-lfs clean -- %f\n", "r/.git/HEAD=x"],
        changes: "\
set r/.git/config [user]\\n\\tname = x\\n[filter \"lfs\"]\\n\\tclean = git-lfs clean -- %f\\n[core]\\n\\tSSHCommand = ssh -i k\\n
set r/.git/config [core]\\n\\tsshCommand = ssh -i k\\n",
    },
    Work {
        what: "a repository moved and copied",
        tree: &["r/.git/HEAD=x", "r/.git/objects/", "r/.git/refs/", "r/.git/config=[core]\n\tpager = less\n", "r/.git/hooks/pre-commit=the host's", "r/.vscode/tasks.json={}", "r/src/hooks/x=", "deep/er/"],
        changes: "\
move r s
move s deep/er/s
move deep/er/s t
swap t deep
move deep r
remove r/.git/config
dir x
dir x/.git",
    },
    Work {
        what: "package managers",
        tree: &["p/node_modules/a/index.js=", "p/target/debug/x=", "p/lib/config/x=", "p/src/hooks/a.ts="],
        changes: "\
move p/node_modules/a p/node_modules/.a-DhJ2
dir p/node_modules/a
put p/node_modules/a/config x
dir p/node_modules/a/hooks
put p/node_modules/a/hooks/install.js x
remove p/node_modules/.a-DhJ2/index.js
remove p/node_modules/.a-DhJ2
dir p/node_modules/.bin
link p/node_modules/.bin/a ../a/index.js
link p/python /usr/bin/python3
hard p/target/debug/x p/target/debug/deps-x
move p/target/debug p/target/release
put p/HEAD x
dir p/refs
move p/lib p/objects.d
put p/src/hooks/b.ts x
move p/src/hooks p/src/hooks2
put p/Makefile x
put p/package.json {}
put p/.editorconfig x
put p/.gitignore x
put p/.gitattributes x
put p/.github x
put p/config [core]\\nfsmonitor = evil
put p/.env A=b
put p/.env.sample A=b
put p/claude x
put p/vscode x
mode p/Makefile",
    },
    Work {
        what: "husky without the host's consent",
        tree: &["p/.git/config=[core]\n\tbare = false\n", "p/.husky/"],
        changes: "\
put p/.husky/pre-commit npm test
dir p/.husky/_
put p/.husky/_/h x
mode p/.husky/pre-commit",
    },
];

/// Parses a line; a lock's rename follows its write.
pub(super) fn steps(line: &str) -> Vec<(String, String, Vec<u8>)> {
    let mut words = line.splitn(3, ' ');
    let verb = words.next().unwrap();
    let path = words.next().unwrap().to_owned();
    let text = words.next().unwrap_or_default();
    let text = text.replace("\\n", "\n").replace("\\t", "\t");
    let step = |verb: &str, path: &str, text: &str| {
        (verb.to_owned(), path.to_owned(), text.as_bytes().to_vec())
    };
    match verb {
        "put" => vec![step("file", &path, ""), step("write", &path, &text)],
        "set" => {
            let lock = format!("{path}.lock");
            vec![
                step("file", &lock, ""),
                step("mode", &lock, ""),
                step("write", &lock, &text),
                step("move", &lock, &path),
            ]
        }
        _ => vec![step(verb, &path, &text)],
    }
}

pub(super) fn change<'a>((verb, path, text): &'a (String, String, Vec<u8>)) -> Change<'a> {
    let path = path.as_bytes();
    match verb.as_str() {
        "dir" => Change::Create {
            path,
            kind: Kind::Directory,
        },
        "file" => Change::Create {
            path,
            kind: Kind::File,
        },
        "link" => Change::Symlink { path, target: text },
        "hard" => Change::Link {
            from: path,
            to: text,
        },
        "move" => Change::Rename {
            from: path,
            to: text,
            exchange: false,
        },
        "swap" => Change::Rename {
            from: path,
            to: text,
            exchange: true,
        },
        "write" => Change::Write {
            path,
            offset: 0,
            data: text,
        },
        "cut" => Change::Truncate { path, size: 0 },
        "mode" => Change::Attributes { path },
        "remove" => Change::Remove { path },
        verb => panic!("{verb}"),
    }
}

/// One change of each kind to a tree with the file `a`.
pub(super) fn one_of_each() -> Vec<Change<'static>> {
    vec![
        Change::Create {
            path: b"b",
            kind: Kind::File,
        },
        Change::Symlink {
            path: b"b",
            target: b"a",
        },
        Change::Link {
            from: b"a",
            to: b"b",
        },
        Change::Write {
            path: b"a",
            offset: 0,
            data: b"x",
        },
        Change::Truncate {
            path: b"a",
            size: 0,
        },
        Change::Attributes { path: b"a" },
        Change::Remove { path: b"a" },
        Change::Rename {
            from: b"a",
            to: b"b",
            exchange: false,
        },
    ]
}

#[test]
fn ordinary_work_goes_on() {
    let rules = rules();
    for work in WORKS {
        let tree = Tree::new(work.tree);
        for line in work.changes.lines() {
            for step in &steps(line) {
                let change = change(step);
                let verdict = rules.check(&change, &tree);
                assert_eq!(verdict, Verdict::Allow, "{}: {line}", work.what);
                tree.apply(&change);
            }
        }
    }
    let tree = Tree::new(&["a=x"]);
    for change in one_of_each() {
        assert_eq!(rules.check(&change, &tree), Verdict::Allow, "{change:?}");
    }
}
