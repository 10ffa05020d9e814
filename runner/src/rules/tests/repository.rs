//! A repository's directory that is shared beside one of its worktrees, and the hooks that it names in the workspace.

use proptest::prelude::*;

use super::super::git::others;
use super::super::{Change, Kind, Outside, Repository, Rules, Verdict};
use super::tree::Tree;
use super::{create, rule, rules};

/// A repository with a main worktree, the guest's own worktree, and another one.
const REPOSITORY: &[&str] = &[
    ".git/HEAD=ref: refs/heads/main\n",
    ".git/index=DIRC",
    ".git/ORIG_HEAD=99c6",
    ".git/config=[core]\n\tbare = false\n",
    ".git/hooks/pre-commit.sample=x",
    ".git/info/exclude=",
    ".git/info/sparse-checkout=",
    ".git/logs/HEAD=0000",
    ".git/logs/refs/heads/own=0000",
    ".git/modules/sub/config=",
    ".git/objects/aa/",
    ".git/refs/heads/own=99c6",
    ".git/refs/bisect/",
    ".git/x=evil",
    ".git/worktrees/own/HEAD=ref: refs/heads/own\n",
    ".git/worktrees/own/commondir=../..\n",
    ".git/worktrees/own/gitdir=/host/own/.git\n",
    ".git/worktrees/own/index=DIRC",
    ".git/worktrees/own/logs/HEAD=0000",
    ".git/worktrees/own/x=evil",
    ".git/worktrees/other/HEAD=ref: refs/heads/other\n",
    ".git/worktrees/other/commondir=../..\n",
    ".git/worktrees/other/gitdir=/host/other/.git\n",
    ".git/worktrees/other/index=DIRC",
];

fn tree() -> Tree {
    Tree::new(REPOSITORY).within(Outside::of_repository())
}

/// The rules of the share, for a guest in this worktree.
fn of(worktree: Option<&str>) -> Rules {
    rules().for_repository(Repository {
        worktree: worktree.map(str::to_owned),
    })
}

fn write(path: &str) -> Change<'_> {
    Change::Write {
        path: path.as_bytes(),
        offset: 0,
        data: b"x",
    }
}

fn remove(path: &str) -> Change<'_> {
    Change::Remove {
        path: path.as_bytes(),
    }
}

fn mv<'a>(from: &'a str, to: &'a str) -> Change<'a> {
    Change::Rename {
        from: from.as_bytes(),
        to: to.as_bytes(),
        exchange: false,
    }
}

fn swap<'a>(from: &'a str, to: &'a str) -> Change<'a> {
    Change::Rename {
        from: from.as_bytes(),
        to: to.as_bytes(),
        exchange: true,
    }
}

fn link<'a>(from: &'a str, to: &'a str) -> Change<'a> {
    Change::Link {
        from: from.as_bytes(),
        to: to.as_bytes(),
    }
}

fn symlink<'a>(path: &'a str, target: &'a str) -> Change<'a> {
    Change::Symlink {
        path: path.as_bytes(),
        target: target.as_bytes(),
    }
}

fn dir(path: &str) -> Change<'_> {
    Change::Create {
        path: path.as_bytes(),
        kind: Kind::Directory,
    }
}

#[test]
fn the_other_worktrees_stay_as_they_are() {
    let tree = tree();
    for change in [
        write(".git/worktrees/other/HEAD"),
        write(".git/worktrees/other/gitdir"),
        remove(".git/worktrees/other/index"),
        remove(".git/worktrees/other"),
        remove(".git/WorkTrees/other/index"),
        create(".git/worktrees/other/locked"),
        create(".git/worktrees/other/HEAD.lock"),
        create(".git/worktrees/file"),
        dir(".git/worktrees/new"),
        dir(".git/worktrees/OWN"),
        mv(".git/worktrees/other", ".git/worktrees/own/other"),
        mv(".git/worktrees/own/x", ".git/worktrees/other/gitdir"),
        mv(".git/worktrees/own", ".git/worktrees/renamed"),
        mv(".git/worktrees", ".git/elsewhere"),
        swap(".git/worktrees/own/index", ".git/worktrees/other/index"),
        swap(".git/worktrees/own", ".git/worktrees/other"),
        link(".git/worktrees/other/index", ".git/worktrees/own/second"),
        symlink(".git/worktrees/new", "/host/elsewhere"),
        // What leads to the own worktree and back.
        write(".git/worktrees/own/gitdir"),
        remove(".git/worktrees/own/gitdir"),
        write(".git/worktrees/own/commondir"),
        mv(".git/worktrees/own/x", ".git/worktrees/own/gitdir"),
        mv(".git/worktrees/own/x", ".git/worktrees/own/commondir"),
        swap(".git/worktrees/own/x", ".git/worktrees/own/gitdir"),
        mv(".git/worktrees/own/commondir", ".git/worktrees/own/y"),
        link(".git/worktrees/own/gitdir", ".git/worktrees/own/y"),
        // The main worktree.
        write(".git/HEAD"),
        create(".git/HEAD.lock"),
        mv(".git/worktrees/own/index", ".git/index"),
        remove(".git/index"),
        create(".git/index.lock"),
        remove(".git/ORIG_HEAD"),
        create(".git/MERGE_MSG"),
        dir(".git/rebase-merge"),
        remove(".git/modules/sub/config"),
        mv(".git/modules", ".git/gone"),
        write(".git/logs/HEAD"),
        mv(".git/logs", ".git/gone"),
        mv(".git/refs", ".git/gone"),
        remove(".git/info/sparse-checkout"),
        create(".git/refs/bisect/bad"),
    ] {
        let verdict = of(Some("own")).check(&change, &tree);
        assert_eq!(rule(&verdict), others::RULE, "{change:?}");
    }
}

#[test]
fn a_repositorys_directory_is_protected_as_if_it_were_in_the_workspace() {
    let tree = tree();
    let planted = b"[core]\n\tfsmonitor = ./evil\n";
    for (change, expected) in [
        (create(".git/hooks/pre-commit"), "git-hooks"),
        (mv(".git/x", ".git/hooks/update"), "git-hooks"),
        (
            Change::Write {
                path: b".git/config",
                offset: 0,
                data: planted,
            },
            "git-settings",
        ),
        (create(".git/lazygit.yml"), "lazygit"),
        (create(".git/remotes/x"), "git-remotes"),
        (symlink(".git/config", "x"), "git-settings"),
    ] {
        for worktree in [None, Some("own")] {
            let verdict = of(worktree).check(&change, &tree);
            assert_eq!(rule(&verdict), expected, "{change:?}");
        }
    }
    // The settings of the own worktree are weighed, too.
    let own = ".git/worktrees/own/config.worktree";
    let change = create(own);
    assert_eq!(of(Some("own")).check(&change, &tree), Verdict::Allow);
    tree.apply(&change);
    let change = Change::Write {
        path: own.as_bytes(),
        offset: 0,
        data: planted,
    };
    assert_eq!(rule(&of(Some("own")).check(&change, &tree)), "git-settings");
}

#[test]
fn git_in_its_own_worktree_works() {
    let tree = tree();
    for change in [
        dir(".git/objects/bb"),
        create(".git/objects/bb/tmp_obj_1"),
        mv(".git/objects/bb/tmp_obj_1", ".git/objects/bb/cc"),
        create(".git/worktrees/own/index.lock"),
        mv(".git/worktrees/own/index.lock", ".git/worktrees/own/index"),
        create(".git/worktrees/own/COMMIT_EDITMSG"),
        create(".git/worktrees/own/HEAD.lock"),
        mv(".git/worktrees/own/HEAD.lock", ".git/worktrees/own/HEAD"),
        write(".git/worktrees/own/logs/HEAD"),
        create(".git/refs/heads/own.lock"),
        mv(".git/refs/heads/own.lock", ".git/refs/heads/own"),
        create(".git/refs/heads/head"),
        write(".git/logs/refs/heads/own"),
        create(".git/refs/stash"),
        dir(".git/logs/refs/heads/feature"),
        create(".git/logs/refs/heads/feature/head"),
        dir(".git/worktrees/own/rebase-merge"),
        create(".git/worktrees/own/rebase-merge/git-rebase-todo"),
        remove(".git/worktrees/own/rebase-merge/git-rebase-todo"),
        remove(".git/worktrees/own/rebase-merge"),
        create(".git/packed-refs.lock"),
        mv(".git/packed-refs.lock", ".git/packed-refs"),
        create(".git/gc.pid"),
        create(".git/config.lock"),
        mv(".git/config.lock", ".git/config"),
        dir(".git/lfs"),
    ] {
        let verdict = of(Some("own")).check(&change, &tree);
        assert_eq!(verdict, Verdict::Allow, "{change:?}");
        tree.apply(&change);
    }
    // In the main worktree of a submodule, the files of a main worktree are its own.
    for change in [
        write(".git/HEAD"),
        create(".git/index.lock"),
        write(".git/logs/HEAD"),
        dir(".git/modules/inner"),
    ] {
        assert_eq!(of(None).check(&change, &tree), Verdict::Allow, "{change:?}");
    }
    let change = write(".git/worktrees/own/HEAD");
    assert_eq!(rule(&of(None).check(&change, &tree)), others::RULE);
}

#[test]
fn hooks_in_the_workspace_that_a_repository_outside_names_are_protected() {
    let tree = Tree::new(&["tools/git/pre-commit=the host's", "tools/x=x", "x=evil"])
        .within(Outside::of_workspace(&["tools/git"]));
    for change in [
        write("tools/git/pre-commit"),
        create("tools/git/post-checkout"),
        create("TOOLS/git/post-checkout"),
        mv("x", "tools/git/pre-commit"),
        mv("tools", "elsewhere"),
        symlink("tools/git/pre-push", "x"),
    ] {
        let verdict = rules().check(&change, &tree);
        let denied = matches!(verdict, Verdict::Deny(_));
        // To move the directory away is no more than to remove it.
        let moved = matches!(change, Change::Rename { from: b"tools", .. });
        assert_eq!(denied, !moved, "{change:?}: {verdict:?}");
    }
    let evil = Tree::new(&["new/git/pre-commit=evil"]);
    let evil = evil.within(Outside::of_workspace(&["tools/git"]));
    assert_eq!(
        rule(&rules().check(&mv("new", "tools"), &evil)),
        "git-shared-hooks"
    );
    assert_eq!(rules().check(&write("tools/x"), &tree), Verdict::Allow);
}

#[test]
fn an_absolute_path_of_the_host_leads_into_the_tree() {
    let tree = Tree::new(&[
        ".git/config=[core]\n\thooksPath = /host/project/.husky\n",
        ".husky/pre-commit=the host's",
    ]);
    assert_eq!(
        rule(&rules().check(&write(".husky/pre-commit"), &tree)),
        "git-shared-hooks"
    );
}

proptest! {
    /// Nothing that another worktree has is changed, and nothing new is made beside it, whatever the name of the own one.
    #[test]
    fn no_change_reaches_another_worktree(
        own in "[a-zA-Z.]{1,4}",
        name in "[a-zA-Z.]{1,4}",
        below in "(/[a-zA-Z.]{1,9}){0,2}",
    ) {
        prop_assume!(own != name && ![&own, &name].iter().any(|name| matches!(name.as_str(), "." | "..")));
        let tree = Tree::new(&[".git/"]).within(Outside::of_repository());
        let path = format!(".git/worktrees/{name}{below}");
        for change in [create(&path), dir(&path), write(&path), remove(&path), symlink(&path, "x"), mv("x", &path), mv(&path, "x")] {
            let verdict = of(Some(&own)).check(&change, &tree);
            prop_assert!(matches!(verdict, Verdict::Deny(_)), "{change:?}");
        }
    }
}
