//! What belongs to a copied git directory, and real worktrees and submodules of real git.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::super::listed::{Kind, Source};
use super::super::listing::{Listing, Which};
use super::*;
use crate::workspace::{SharedDir, Workspace, shell};

/// A directory with repositories in it, at a path without links.
struct Place {
    _dir: tempfile::TempDir,
    base: PathBuf,
}

impl Place {
    fn new(line: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self {
            base: dir.path().canonicalize().unwrap(),
            _dir: dir,
        };
        place.run(".", line);
        place
    }

    /// What a shell line prints, in a directory.
    fn run(&self, dir: &str, line: &str) -> String {
        shell(&self.base.join(dir), line)
    }

    fn listing(&self, workspace: &str) -> Listing {
        let root = self.base.join(workspace);
        let workspace = Workspace::copy(SharedDir::open(&root).unwrap(), None, &[]);
        let repository = workspace.copied_repository().expect("it leads back");
        Listing::of(&root, Some(repository), Which::NotIgnored, &|_| false).unwrap()
    }

    /// Makes `copy/workspace` of what belongs to the copy of a directory.
    fn copy(&self, workspace: &str) {
        let copy = self.base.join("copy/workspace");
        fs::create_dir_all(&copy).unwrap();
        for (path, listed) in self.listing(workspace).entries {
            let to = copy.join(std::ffi::OsStr::from_bytes(&path));
            match listed.kind {
                Kind::Directory => fs::create_dir(&to).unwrap(),
                Kind::Link => {
                    symlink(std::ffi::OsStr::from_bytes(&listed.target), &to).unwrap();
                }
                Kind::File => {
                    let text = match listed.source(&self.base.join(workspace), &path) {
                        Source::File(place) => fs::read(place).unwrap(),
                        Source::Text(text) => text.to_vec(),
                    };
                    assert_eq!(text.len() as u64, listed.size, "{}", to.display());
                    fs::write(&to, text).unwrap();
                    fs::set_permissions(&to, fs::Permissions::from_mode(listed.mode)).unwrap();
                }
            }
        }
    }

    /// Moves all but the copy away, and compares what a shell line prints there with what it printed in the workspace.
    fn is_the_same_in_a_copy_of(&self, workspace: &str, line: &str) -> String {
        let here = self.run(workspace, line);
        let before = self.run(workspace, "find . | sort; cat .git");
        self.copy(workspace);
        assert_eq!(self.run(workspace, "find . | sort; cat .git"), before);
        fs::create_dir(self.base.join("away")).unwrap();
        self.run(
            ".",
            "for each in *; do case $each in copy|away) ;; *) mv $each away;; esac; done",
        );
        assert_eq!(self.run("copy/workspace", line), here);
        here
    }
}

const STATE: &str = "git status; git log --all --format=%s; git reflog; git stash list; git branch --format='%(refname)'; git config remote.origin.url; true";

#[test]
fn a_worktree_in_the_midst_of_things_is_the_same_in_its_copy() {
    let place = Place::new(
        "git init -q -b main repo && cd repo && echo one >file && git add -A && git commit -qm one && \
         git worktree add -q -b topic ../tree && git worktree add -q -b other ../other && \
         echo theirs >../other/theirs && git -C ../other add theirs && echo ours >file && git commit -qam ours && \
         git config remote.origin.url x && cd ../tree && echo two >file && git commit -qam two && \
         echo stashed >file && git stash -q && git bisect start -q && git bisect bad && git bisect good main~1 && git bisect reset && \
         git config extensions.worktreeConfig true && git config --worktree core.abbrev 12 && \
         (git rebase main >/dev/null 2>&1; true) && echo new >new && git add new && git pack-refs --all",
    );
    let state = place.is_the_same_in_a_copy_of("tree", STATE);
    assert!(
        state.contains("both modified:   file") && state.contains("rebase"),
        "{state}"
    );
    let after = "echo solved >file && git add file && GIT_EDITOR=true git rebase --continue >/dev/null && git log --format=%s && \
                 git rev-parse --short HEAD | wc -c && git fsck --no-dangling && git worktree list | wc -l && git checkout -q -b more && \
                 git worktree prune -v && ls .git";
    let after = place.run("copy/workspace", after);
    assert!(after.starts_with("two\nours\none\n13\n1\n"), "{after}");
    for other in ["worktrees", "gitdir", "commondir"] {
        assert!(!after.contains(other), "{after}");
    }
}

#[test]
fn worktrees_of_a_bare_repository_around_them_work() {
    let place = Place::new(
        "git init -q -b main seed && git -C seed commit -q --allow-empty -m one && mkdir project && \
         git clone -q --bare seed project/.bare && cd project/.bare && git worktree add -q ../main && \
         git worktree add -q -b sparse inside main && cd inside && mkdir in out && echo in >in/f && echo out >out/f && \
         git add -A && git commit -qm two && git sparse-checkout set in",
    );
    let line = "git status --short; git log --format=%s; git sparse-checkout list; ls";
    let seen = place.is_the_same_in_a_copy_of("project/.bare/inside", line);
    assert_eq!(seen, "two\none\nin\nin\n");
    let line = "git sparse-checkout disable && cat out/f && git rev-parse --is-bare-repository";
    assert_eq!(place.run("copy/workspace", line), "out\nfalse\n");
}

const WITH_SUBMODULES: &str = "for each in inner outer super; do git init -q -b main $each && git -C $each commit -q --allow-empty -m $each; done && \
    git -C outer submodule --quiet add ../inner a/inner && git -C outer commit -qm 'with inner' && \
    git -C super submodule --quiet add ../outer sub/outer && git -C super commit -qm 'with outer' && \
    git -C super submodule --quiet update --init --recursive && git -C super worktree add -q ../tree && \
    git -C tree submodule --quiet update --init --recursive";

const SUBMODULES: &str = "git status && git submodule status --recursive && git -C sub/outer log --format=%s && \
    git -C sub/outer/a/inner rev-parse --show-prefix HEAD && git -C sub/outer/a/inner status";

#[test]
fn submodules_of_a_worktree_come_along() {
    let place = Place::new(WITH_SUBMODULES);
    place.is_the_same_in_a_copy_of("tree", SUBMODULES);
    let line = "cd sub/outer/a/inner && echo x >x && git add x && git commit -qm x && cd ../.. && \
                git commit -qam x && cd ../.. && git commit -qam x && git submodule status --recursive | grep -c '^ ' && git status --short";
    assert_eq!(place.run("copy/workspace", line), "2\n");
}

#[test]
fn a_submodule_is_a_repository_of_its_own() {
    let place = Place::new(WITH_SUBMODULES);
    let line = "git status && git log --format=%s && git submodule status && git -C a/inner status && git rev-parse --show-prefix";
    place.is_the_same_in_a_copy_of("super/sub/outer", line);
    let line = "echo x >a/inner/x && git -C a/inner add x && git -C a/inner commit -qm x && git commit -qam x && git status --short && git fsck";
    assert_eq!(place.run("copy/workspace", line), "");
}

#[test]
fn a_repository_that_does_not_lead_back_is_not_copied() {
    let place = Place::new(
        "git init -q -b main repo && git -C repo commit -q --allow-empty -m one && git -C repo worktree add -q ../tree && cp -r tree stolen",
    );
    let root = place.base.join("stolen");
    let workspace = Workspace::copy(SharedDir::open(&root).unwrap(), None, &[]);
    assert!(workspace.copied_repository().is_none());
    assert!(workspace.git_trouble().unwrap().contains("repair"));
}

#[test]
fn what_worktrees_share_is_what_git_says() {
    for shared in [
        "config",
        "refs",
        "refs/heads/a",
        "refs/bisected",
        "logs/refs/heads/a",
        "info/exclude",
        "objects/00/0",
    ] {
        assert!(is_shared(shared.as_bytes()), "{shared}");
    }
    for own in [
        "HEAD",
        "index",
        "logs/HEAD",
        "refs/bisect",
        "refs/bisect/bad",
        "info/sparse-checkout",
        "config.worktree",
        "modules/a",
        "worktrees/a",
        "configs",
    ] {
        assert!(!is_shared(own.as_bytes()), "{own}");
    }
}

fn git_dir() -> GitDir {
    GitDir {
        workspace: "/w/tree".into(),
        common: "/w/repo/.git".into(),
        own: "/w/repo/.git/worktrees/tree".into(),
    }
}

#[test]
fn settings_name_the_copys_worktree() {
    let settings = |dir: &[u8], on_host: &str, text: &str| {
        let changed = git_dir().settings(dir, Path::new(on_host), text.into());
        changed.map(|text| String::from_utf8(text).unwrap())
    };
    let main = "/w/repo/.git/config";
    assert_eq!(settings(GIT, main, "[core]\n\tbare = false\n"), None);
    assert_eq!(settings(GIT, main, "[core"), None, "git reads none of it");
    assert_eq!(
        settings(GIT, main, "[core]\n\tbare\n\tworktree = /x").unwrap(),
        "[core]\n\tbare\n\tworktree = /x\n\n[core]\n\tbare = false\n\tworktree = \"..\"\n"
    );
    let module = "/w/repo/.git/worktrees/tree/modules/a/b/config";
    let set = |worktree: &str| format!("[core]\n\tworktree = {worktree}\n");
    let changed = settings(
        b".git/modules/a/b",
        module,
        &set("../../../../../../../tree/a/b"),
    );
    assert!(
        changed
            .unwrap()
            .ends_with("\n[core]\n\tworktree = \"../../../../a/b\"\n"),
        "seen from the copy's directory"
    );
    let outside = settings(b".git/modules/a/b", module, &set("/elsewhere"));
    assert_eq!(outside, None);
}

#[test]
fn files_of_submodules_lead_into_the_copy() {
    let lead = |dir: &[u8], text: &[u8]| git_dir().lead(dir, text);
    let absolute = b"gitdir: /w/repo/.git/worktrees/tree/modules/a/b\n";
    let led = &b"gitdir: ../../.git/modules/a/b\n"[..];
    assert_eq!(lead(b"a/b", absolute).as_deref(), Some(led));
    let relative = b"gitdir: ../../../repo/.git/worktrees/tree/modules/a/b\n";
    assert_eq!(lead(b"a/b", relative).as_deref(), Some(led));
    assert_eq!(lead(b"a/b", b"gitdir: /w/repo/.git/modules/a/b\n"), None);
    assert_eq!(lead(b"a", b"nothing"), None);
}
