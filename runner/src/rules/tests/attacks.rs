//! What a hostile guest tries. In each row all changes but the last are harmless by themselves; the last is refused.

use super::super::{Change, Kind, Verdict};
use super::rules;
use super::tree::Tree;

/// One attack.
pub(super) struct Attack {
    /// What is tried.
    pub(super) what: &'static str,
    /// The program of the host that would run it.
    runs: &'static str,
    /// The tree before.
    pub(super) tree: &'static [&'static str],
    /// What the guest requests.
    pub(super) changes: &'static [Change<'static>],
    /// The rule that refuses the last change.
    pub(super) rule: &'static str,
}

const fn attack(
    what: &'static str,
    runs: &'static str,
    tree: &'static [&'static str],
    changes: &'static [Change<'static>],
    rule: &'static str,
) -> Attack {
    Attack {
        what,
        runs,
        tree,
        changes,
        rule,
    }
}

const fn file(path: &'static str) -> Change<'static> {
    Change::Create {
        path: path.as_bytes(),
        kind: Kind::File,
    }
}

const fn dir(path: &'static str) -> Change<'static> {
    Change::Create {
        path: path.as_bytes(),
        kind: Kind::Directory,
    }
}

const fn link(path: &'static str, target: &'static str) -> Change<'static> {
    Change::Symlink {
        path: path.as_bytes(),
        target: target.as_bytes(),
    }
}

const fn hard(from: &'static str, to: &'static str) -> Change<'static> {
    Change::Link {
        from: from.as_bytes(),
        to: to.as_bytes(),
    }
}

const fn write(path: &'static str, data: &'static str) -> Change<'static> {
    Change::Write {
        path: path.as_bytes(),
        offset: 0,
        data: data.as_bytes(),
    }
}

const fn write_at(path: &'static str, offset: u64, data: &'static str) -> Change<'static> {
    Change::Write {
        path: path.as_bytes(),
        offset,
        data: data.as_bytes(),
    }
}

const fn cut(path: &'static str, size: u64) -> Change<'static> {
    Change::Truncate {
        path: path.as_bytes(),
        size,
    }
}

const fn mode(path: &'static str) -> Change<'static> {
    Change::Attributes {
        path: path.as_bytes(),
    }
}

const fn remove(path: &'static str) -> Change<'static> {
    Change::Remove {
        path: path.as_bytes(),
    }
}

const fn mv(from: &'static str, to: &'static str) -> Change<'static> {
    Change::Rename {
        from: from.as_bytes(),
        to: to.as_bytes(),
        exchange: false,
    }
}

const fn swap(from: &'static str, to: &'static str) -> Change<'static> {
    Change::Rename {
        from: from.as_bytes(),
        to: to.as_bytes(),
        exchange: true,
    }
}

const EVIL: &str = "[core]\n\tfsmonitor = ./evil\n";
const REPO: &[&str] = &[
    ".git/HEAD=ref: refs/heads/main\n",
    ".git/objects/",
    ".git/refs/",
    ".git/config=[core]\n\tbare = false\n",
    ".git/hooks/pre-commit.sample=x",
    "a/x=x",
];
const HOOKED: &[&str] = &[
    ".git/HEAD=ref: refs/heads/main\n",
    ".git/objects/",
    ".git/refs/",
    ".git/config=[core]\n\tpager = less -R\n",
    ".git/hooks/pre-commit=the host's",
    "a/x=x",
];
const BARE: &[&str] = &["b/HEAD=x", "b/objects/", "b/refs/", "b/config="];
const SHARED: &[&str] = &[
    ".git/config=[core]\n\thooksPath = tools/.husky/_\n",
    "tools/.husky/_/pre-commit=the host's",
    "a/.husky/_/post-checkout=evil",
    "x=evil",
];
const WORKTREE: &[&str] = &[
    ".git/HEAD=x",
    ".git/objects/",
    ".git/refs/",
    ".git/config=",
    ".git/worktrees/w/HEAD=x",
    ".git/worktrees/w/commondir=../..\n",
    "w/.git=gitdir: /workspace/.git/worktrees/w\n",
    "evil/objects/",
    "evil/refs/",
    "evil/hooks/",
    "plain/",
];
const SUBMODULE: &[&str] = &[
    ".git/HEAD=x",
    ".git/modules/s/HEAD=x",
    ".git/modules/s/objects/",
    ".git/modules/s/refs/",
    ".git/modules/s/config=[core]\n\tworktree = ../../../s\n",
    "s/.git=gitdir: ../.git/modules/s\n",
];
const EDITORS: &[&str] = &[
    ".vscode/settings.json={\"task.allowAutomaticTasks\":\"off\"}",
    "p/.claude/settings.json={}",
    ".mcp.json={}",
    "d/settings.json=evil",
    "a/x=x",
];

#[rustfmt::skip]
pub(super) const ATTACKS: &[Attack] = &[
    // Hooks.
    attack("a new hook", "git commit", REPO, &[file(".git/hooks/pre-commit")], "git-hooks"),
    attack("a hook for a status", "git status", REPO, &[file(".git/hooks/post-index-change")], "git-hooks"),
    attack("a sample renamed", "git commit", REPO, &[mv(".git/hooks/pre-commit.sample", ".git/hooks/pre-commit")], "git-hooks"),
    attack("a hook moved in", "git commit", REPO, &[mv("a/x", ".git/hooks/post-checkout")], "git-hooks"),
    attack("a second name as a hook", "git commit", REPO, &[hard("a/x", ".git/hooks/post-merge")], "git-hooks"),
    attack("a symbolic link as a hook", "git commit", REPO, &[link(".git/hooks/pre-push", "../../a/x")], "git-hooks"),
    attack("a hook swapped with a sample", "git commit", HOOKED, &[swap("a/x", ".git/hooks/pre-commit")], "git-hooks"),
    attack("a hook overwritten", "git commit", HOOKED, &[write(".git/hooks/pre-commit", "evil")], "git-hooks"),
    attack("a hook cut short", "git commit", HOOKED, &[cut(".git/hooks/pre-commit", 2)], "git-hooks"),
    attack("a hook made executable", "git commit", HOOKED, &[mode(".git/hooks/pre-commit")], "git-hooks"),
    attack("a protective hook removed", "git commit", HOOKED, &[remove(".git/hooks/pre-commit")], "git-hooks"),
    attack("the hooks moved away", "git commit", HOOKED, &[mv(".git/hooks", "h")], "git-hooks"),
    attack("a second name of a hook", "git commit", HOOKED, &[hard(".git/hooks/pre-commit", "a/h")], "git-hooks"),
    attack("a link in place of the hooks", "git commit", &[".git/HEAD=x"], &[link(".git/hooks", "../a")], "git-hooks"),
    attack("a directory moved to the hooks", "git commit", &[".git/HEAD=x", "a/pre-commit=evil"], &[mv("a", ".git/hooks")], "git-hooks"),
    attack("a link moved to the hooks", "git commit", &[".git/HEAD=x", "a/"], &[link("l", "a"), mv("l", ".git/hooks")], "git-hooks"),
    attack("hooks in other letters", "git commit", REPO, &[file(".GIT/Hooks/pre-commit")], "git-hooks"),
    attack("hooks with an invisible letter", "git commit", REPO, &[file(".g\u{200c}it/hooks/pre-commit")], "git-hooks"),
    attack("hooks by the short name", "git commit", REPO, &[file("git~1/hooks/pre-commit")], "git-hooks"),
    attack("hooks by a stream's name", "git commit", REPO, &[file(".git::$INDEX_ALLOCATION/hooks/pre-commit")], "git-hooks"),
    attack("hooks with a ligature's letters", "git commit", REPO, &[file(".git/hoo\u{212a}\u{17f}/pre-commit")], "git-hooks"),
    attack("a program beside the hooks", "git commit", REPO, &[file(".git/hooks/lib/evil")], "git-hooks"),
    attack("hooks of a submodule", "git commit", &[".git/modules/a/b/HEAD=x", ".git/modules/a/b/objects/", ".git/modules/a/b/refs/"], &[file(".git/modules/a/b/hooks/pre-commit")], "git-hooks"),
    attack("hooks of a nested repository", "a prompt with git", &["a/b/.git/HEAD=x"], &[file("a/b/.git/hooks/post-index-change")], "git-hooks"),
    attack("hooks of a bare repository", "git push", BARE, &[dir("b/hooks"), file("b/hooks/pre-receive")], "git-hooks"),
    attack("the share is a bare repository", "git push", &["HEAD=x", "objects/", "refs/"], &[file("hooks/pre-receive")], "git-hooks"),
    attack("hooks first, repository later", "git commit", &["b/hooks/pre-commit=evil"], &[file("b/HEAD"), dir("b/refs"), dir("b/objects")], "git-hooks"),
    attack("hooks first, objects as a link", "git commit", &["b/hooks/pre-commit=evil"], &[dir("b/refs"), link("b/objects", "../o")], "git-hooks"),
    attack("hooks first, objects moved in", "git commit", &["b/hooks/pre-commit=evil", "b/refs/", "o/"], &[mv("o", "b/objects")], "git-hooks"),
    attack("hooks first, objects swapped in", "git commit", &["b/hooks/pre-commit=evil", "b/objects/", "b/r=x", "o/"], &[swap("o", "b/r"), mv("b/r", "b/refs")], "git-hooks"),
    attack("hooks first, then the name .git", "git status", &["x/hooks/pre-commit=evil"], &[mv("x", ".git")], "git-hooks"),
    attack("the name .git by an exchange", "git status", &["x/hooks/pre-commit=evil", ".git/HEAD=x"], &[swap(".git", "x")], "git-hooks"),
    attack("the name .git by an exchange, the other way", "git status", &["x/hooks/pre-commit=evil", ".git/HEAD=x"], &[swap("x", ".git")], "git-hooks"),
    attack("a directory into .git/modules", "git commit", &["x/objects/", "x/r/", "x/hooks/p=evil", ".git/modules/"], &[mv("x", ".git/modules/x"), mv(".git/modules/x/r", ".git/modules/x/refs")], "git-hooks"),
    attack("marks taken away, hooks changed, marks put back", "git commit", &["b/HEAD=x", "b/objects/", "b/refs/", "b/hooks/"], &[mv("b/objects", "b/o"), file("b/hooks/pre-commit"), mv("b/o", "b/objects")], "git-hooks"),
    attack("a git directory under another name", "git commit", REPO, &[mv(".git/objects", ".git/o"), mv(".git", "g"), file("g/hooks/pre-commit"), mv("g", ".git")], "git-hooks"),
    // Settings.
    attack("a setting by a renamed file", "git status", REPO, &[file(".git/config.lock"), write(".git/config.lock", EVIL), mv(".git/config.lock", ".git/config")], "git-settings"),
    attack("a setting written in place", "git status", REPO, &[write(".git/config", EVIL)], "git-settings"),
    attack("a setting appended", "git status", REPO, &[write_at(".git/config", 21, EVIL)], "git-settings"),
    attack("a setting in two halves", "git status", REPO, &[write(".git/config", "[alias]\n\tst = status\n\tx=!")], "git-aliases"),
    attack("a setting uncovered by a cut", "git log", &[".git/config=[core]\n#\tbare = false\n\tpager = less -R\n"], &[cut(".git/config", 40)], "git-settings"),
    attack("a comment opened in place", "git log", &[".git/config=[core]\n#\tpager = evil\n"], &[write_at(".git/config", 7, " ")], "git-settings"),
    attack("a setting far behind the end", "git status", REPO, &[write_at(".git/config", 1 << 40, EVIL)], "unchecked"),
    attack("a setting behind NULs", "git status", REPO, &[write_at(".git/config", 100, EVIL)], "git-settings"),
    attack("an emptied file of settings", "git log", HOOKED, &[cut(".git/config", 0)], "git-settings"),
    attack("a linked file of settings", "git status", REPO, &[hard("a/x", ".git/config.lock"), mv(".git/config.lock", ".git/config")], "git-settings"),
    attack("a second name of the settings", "git status", REPO, &[hard(".git/config", "c")], "git-settings"),
    attack("settings as a symbolic link", "git status", &[".git/HEAD=x"], &[link(".git/config", "../a")], "git-settings"),
    attack("settings as a moved link", "git status", REPO, &[link("l", "a/x"), mv("l", ".git/config")], "git-settings"),
    attack("settings swapped", "git status", &[".git/config=", "c=[core]\nfsmonitor=x\n"], &[swap(".git/config", "c")], "git-settings"),
    attack("settings in other letters", "git status", REPO, &[file("C"), write("C", EVIL), mv("C", ".git/CONFIG")], "git-settings"),
    attack("settings with a ligature", "git status", REPO, &[file("C"), write("C", EVIL), mv("C", ".git/con\u{fb01}g")], "git-settings"),
    attack("settings of a worktree", "git status", WORKTREE, &[file(".git/worktrees/w/config.worktree"), write(".git/worktrees/w/config.worktree", EVIL)], "git-settings"),
    attack("settings of all worktrees", "git status", REPO, &[file(".git/config.worktree"), write(".git/config.worktree", EVIL)], "git-settings"),
    attack("settings of a bare repository", "git log", BARE, &[write("b/config", "[core]\npager=evil\n")], "git-settings"),
    attack("settings first, repository later", "git log", &["b/config=[core]\npager=evil\n", "b/refs/"], &[dir("b/objects")], "git-settings"),
    attack("settings first, then a worktree's directory", "git log", &[".git/HEAD=x", ".git/worktrees/w/config.worktree=[core]\npager=evil\n", ".git/worktrees/w/commondir=../..\n"], &[file(".git/worktrees/w/HEAD")], "git-settings"),
    attack("a moved repository's settings", "git status", &["x/.hidden/config=[core]\nfsmonitor=e\n"], &[mv("x/.hidden", "x/.git")], "git-settings"),
    attack("a file that a person's settings include", "git status", &[".gitconfig="], &[write(".gitconfig", EVIL)], "git-settings"),
    attack("a file of settings too large to read", "git status", REPO, &[cut(".git/config", 1 << 21)], "git-settings"),
    attack("a worktree outside", "git checkout", &[".git/modules/s/HEAD=x", ".git/modules/s/objects/", ".git/modules/s/refs/", ".git/modules/s/config="], &[write(".git/modules/s/config", "[core]\nworktree = ../../../../home\n")], "git-worktree"),
    attack("a worktree that is a git directory", "git checkout", &[".git/modules/s/HEAD=x", ".git/modules/s/objects/", ".git/modules/s/refs/", ".git/modules/s/config="], &[write(".git/modules/s/config", "[core]\nworktree = ../..\n")], "git-worktree"),
    attack("a worktree through a link", "git checkout", &[".git/config=", "out->/home"], &[write(".git/config", "[core]\nworktree = ../out\n")], "git-worktree"),
    attack("a worktree outside by a move", "git checkout", &["a/b/c/.git/config=[core]\nworktree = ../../..\n"], &[mv("a/b/c", "c")], "git-worktree"),
    attack("a worktree of a repository of its own", "git checkout", &[".git/config=", "w/"], &[write(".git/config", "[core]\nworktree = ../w\n")], "git-worktree"),
    attack("a worktree of a hidden submodule", "git checkout", &[".git/modules/refs/s/HEAD=x", ".git/modules/refs/s/objects/", ".git/modules/refs/s/refs/", "w/"], &[file(".git/modules/refs/s/config"), write(".git/modules/refs/s/config", "[core]\nworktree = ../../../../w\n")], "git-worktree"),
    attack("a link in place of a submodule", "git submodule update", SUBMODULE, &[remove("s/.git"), remove("s"), link("s", "/home")], "git-worktree"),
    attack("a moved link in place of a submodule", "git submodule update", SUBMODULE, &[mv("s", "t"), link("l", "/home"), mv("l", "s")], "git-worktree"),
    attack("a link swapped with a submodule", "git submodule update", SUBMODULE, &[link("l", "/home"), swap("l", "s")], "git-worktree"),
    attack("a link above a submodule", "git submodule update", &[".git/modules/a/b/HEAD=x", ".git/modules/a/b/config=[core]\nworktree = ../../../../a/b\n", "a/b/", "d/b->/home"], &[mv("a", "t"), mv("d", "a")], "git-worktree"),
    // Files that lead git elsewhere.
    attack("a .git file that leads outside", "git status", &["s/"], &[file("s/.git"), write("s/.git", "gitdir: ../../other\n")], "git-directory"),
    attack("a .git file to the host's root", "git status", &["s/"], &[file("s/.git"), write("s/.git", "gitdir: /tmp/evil\n")], "git-directory"),
    attack("a .git file through a link", "git status", &["s/", "l->/tmp"], &[file("s/.git"), write("s/.git", "gitdir: ../l/x\n")], "git-directory"),
    attack("a .git link", "git status", &["s/", "evil/"], &[link("s/.git", "../evil")], "git-directory"),
    attack("a .git link by a move", "git status", &["s/", "evil/"], &[link("l", "evil"), mv("l", "s/.git")], "git-directory"),
    attack("a .git file moved in", "git status", &["s/", "f=gitdir: /tmp/evil\n"], &[mv("f", "s/.git")], "git-directory"),
    attack("a repository in a git directory", "git checkout", REPO, &[dir(".git/.git")], "git-directory"),
    attack("a repository in a bare one", "git checkout", BARE, &[file("b/.git")], "git-directory"),
    attack("a common directory elsewhere", "git status", WORKTREE, &[write(".git/worktrees/w/commondir", "../../../evil\n")], "git-directory"),
    attack("a common directory without HEAD", "git status", &["x/worktrees/w/", "x/config=[core]\npager=evil\n"], &[file("x/worktrees/w/commondir"), write("x/worktrees/w/commondir", "../..\n")], "git-directory"),
    attack("a common directory in a .git directory", "git status", &["x/.git/HEAD=x", "x/config=evil"], &[file("x/.git/commondir"), write("x/.git/commondir", "..\n")], "git-directory"),
    attack("a worktree's directory moved", "git status", WORKTREE, &[mv(".git/worktrees/w", "plain/w")], "git-directory"),
    attack("the directory of worktrees moved", "git status", WORKTREE, &[mv(".git/worktrees", "plain/worktrees")], "git-directory"),
    attack("hooks of the common directory", "git commit", WORKTREE, &[file("evil/hooks/pre-commit")], "git-hooks"),
    attack("a log that leads elsewhere", "git commit", REPO, &[dir(".git/logs"), link(".git/logs/HEAD", "../../../.bashrc")], "git-links"),
    attack("a message that leads elsewhere", "git commit", REPO, &[link("m", "../../.bashrc"), mv("m", ".git/COMMIT_EDITMSG")], "git-links"),
    attack("a message exchanged for a link", "git commit", REPO, &[file(".git/COMMIT_EDITMSG"), link("m", "../../.bashrc"), swap("m", ".git/COMMIT_EDITMSG")], "git-links"),
    attack("the link of git's own trial renamed", "git commit", REPO, &[link(".git/tAbc123", "testing"), mv(".git/tAbc123", ".git/COMMIT_EDITMSG")], "git-links"),
    attack("a second name of a link", "git commit", REPO, &[link("m", "../../.bashrc"), hard("m", ".git/COMMIT_EDITMSG")], "git-links"),
    attack("a directory with a link moved in", "git commit", REPO, &[dir("l"), link("l/HEAD", "../../../.bashrc"), mv("l", ".git/logs")], "git-links"),
    attack("a directory with a link becomes a repository", "git commit", &[], &[dir("r"), link("r/COMMIT_EDITMSG", "../../.bashrc"), mv("r", ".git")], "git-links"),
    attack("a bare directory with a link becomes a repository", "git fetch", &["r/HEAD=ref: refs/heads/main\n", "r/objects/"], &[link("r/FETCH_HEAD", "../../.bashrc"), dir("r/refs")], "git-links"),
    attack("a directory with a link moved into a bare repository", "git fetch", &["r/HEAD=ref: refs/heads/main\n", "r/objects/", "r/refs/"], &[dir("l"), link("l/HEAD", "../../../.bashrc"), mv("l", "r/logs")], "git-links"),
    attack("exec lines of a rebase", "git rebase --continue", &[".git/rebase-merge/"], &[file(".git/rebase-merge/git-rebase-todo"), write(".git/rebase-merge/git-rebase-todo", "pick 1 a\n x ./evil\n")], "git-rebase"),
    attack("a strategy that is a program", "git rebase --continue", &[".git/rebase-merge/"], &[file(".git/rebase-merge/strategy"), write(".git/rebase-merge/strategy", "x/evil")], "git-rebase"),
    attack("an old file of a remote", "git fetch", REPO, &[dir(".git/remotes"), file(".git/remotes/origin")], "git-remotes"),
    attack("an old file of a branch", "git fetch", REPO, &[dir(".git/branches"), file(".git/branches/origin")], "git-remotes"),
    // Hooks that the host's settings share.
    attack("a shared hook changed", "git commit", SHARED, &[write("tools/.husky/_/pre-commit", "evil")], "git-shared-hooks"),
    attack("a shared hook added", "git commit", SHARED, &[file("tools/.husky/_/post-checkout")], "git-shared-hooks"),
    attack("a directory moved to the shared hooks", "git commit", &[".git/config=[core]\n\thooksPath = tools/.husky\n", "a/.husky/pre-commit=evil"], &[mv("a", "tools")], "git-shared-hooks"),
    attack("a link in place of the shared hooks", "git commit", &[".git/config=[core]\n\thooksPath = tools/.husky\n", "a/.husky/pre-commit=evil"], &[link("tools", "a")], "git-shared-hooks"),
    attack("a moved link in place of the shared hooks", "git commit", &[".git/config=[core]\n\thooksPath = tools/.husky\n", "a/.husky/pre-commit=evil"], &[link("l", "a"), mv("l", "tools")], "git-shared-hooks"),
    // Editors and agents; the names themselves are tested with the table.
    attack("tasks of an editor", "VS Code", EDITORS, &[file(".vscode/tasks.json")], "vscode"),
    attack("protective settings removed", "VS Code", EDITORS, &[remove(".vscode/settings.json")], "vscode"),
    attack("the settings' directory moved away", "VS Code", EDITORS, &[mv(".vscode", "v")], "vscode"),
    attack("a directory moved to the settings", "Claude Code", EDITORS, &[mv("d", "a/.claude")], "claude"),
    attack("a directory swapped with the settings", "Claude Code", EDITORS, &[swap("d", "p/.claude")], "claude"),
    attack("settings through a link", "Cursor", EDITORS, &[link(".cursor", "d")], "cursor"),
    attack("a file moved over a list of servers", "Claude Code", EDITORS, &[mv("a/x", ".mcp.json")], "mcp"),
    attack("a second name of a list of servers", "Claude Code", EDITORS, &[hard(".mcp.json", "m")], "mcp"),
    attack("a list of servers in other letters", "Claude Code", EDITORS, &[mv("a/x", "b.MCP.json"), mv("b.MCP.json", ".MCP.json")], "mcp"),
    attack("a workspace's file", "VS Code", EDITORS, &[file("x.code-workspace")], "vscode"),
    attack("a directory's environment", "direnv", EDITORS, &[file("a/.envrc")], "shell"),
    attack("a directory's variables", "Emacs", EDITORS, &[file("a/.dir-locals.el")], "emacs"),
    attack("a directory's commands", "Vim", EDITORS, &[file("a/.exrc")], "vim"),
    attack("watchers of an editor", "IntelliJ IDEA", EDITORS, &[dir(".idea")], "jetbrains"),
    attack("hooks of Mercurial by a move", "hg status", &["h/hgrc=evil", "h/store/"], &[mv("h", ".hg")], "mercurial"),
    attack("settings of Mercurial", "hg status", &[".hg/"], &[file(".hg/hgrc")], "mercurial"),
    attack("settings of lazygit", "lazygit", REPO, &[file(".git/lazygit.yml")], "lazygit"),
    attack("the sandbox's own settings", "snowglobe", EDITORS, &[file("snowglobe.toml")], "snowglobe"),
];

#[test]
fn no_attack_of_the_list_succeeds() {
    assert!(ATTACKS.len() >= 100, "{}", ATTACKS.len());
    let rules = rules();
    let mut failed = Vec::new();
    for attack in ATTACKS {
        let tree = Tree::new(attack.tree);
        let (last, before) = attack.changes.split_last().unwrap();
        for change in before {
            let verdict = rules.check(change, &tree);
            match verdict {
                Verdict::Allow => tree.apply(change),
                _ => failed.push(format!("{}: {change:?}: {verdict:?}", attack.what)),
            }
        }
        let verdict = rules.check(last, &tree);
        if !matches!(&verdict, Verdict::Deny(finding) if finding.rule == attack.rule) {
            let (what, runs) = (attack.what, attack.runs);
            failed.push(format!(
                "{what} ({runs}): {:?} instead of {}",
                verdict, attack.rule
            ));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
