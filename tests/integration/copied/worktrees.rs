//! A worktree or a submodule as the copied workspace: git works in the guest, and its commits reach the right repository.

use std::fs;
use std::path::PathBuf;

use super::{changes, guest, json_of, run, works};
use crate::common::{Place, ended, on_the_host};

/// A repository beside the workspace, which is its worktree `workspace`; another worktree has work in progress.
fn worktree() -> Place {
    let place = Place::new("debian");
    fs::create_dir(repo(&place)).unwrap();
    on_the_host(
        &repo(&place),
        "git init -q -b main . && echo one >file && printf '*.log\\n' >.gitignore && git add -A && git commit -qm one && \
         git worktree add -q -b topic ../workspace && git worktree add -q -b other ../other && \
         cd ../other && echo theirs >theirs && git add theirs && cd ../workspace && echo mine >mine && git add mine && \
         echo more >>file && echo x >x.log",
    );
    place
}

fn repo(place: &Place) -> PathBuf {
    place.dir.path().join("repo")
}

/// What the host has that no command of the sandbox may change.
fn state(place: &Place) -> String {
    on_the_host(
        place.dir.path(),
        "cat workspace/.git repo/.git/worktrees/*/gitdir repo/.git/worktrees/*/HEAD repo/.git/config && \
         git -C workspace status && git -C other status && git -C repo status && git -C repo branch -a && git -C repo worktree list",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn git_works_in_a_copied_worktree_and_its_commits_come_back() {
    let place = worktree();
    let before = state(&place);
    let status =
        "git status --short; git log --format=%s; git branch --show-current; git reflog topic";
    let seen = guest(&place, status).await;
    assert_eq!(seen, on_the_host(&place.workspace, status));
    assert!(seen.starts_with(" M file\nA  mine\none\ntopic\n"), "{seen}");
    assert_eq!(
        guest(
            &place,
            "test -d .git && ls .git/worktrees; git worktree prune -v; git fsck --no-dangling; ls -A"
        )
        .await,
        ".git\n.gitignore\nfile\nmine\n"
    );
    assert_eq!(changes(&place).await, Vec::<String>::new());
    guest(
        &place,
        "git config user.name a && git config user.email a@b && git commit -qam two && git checkout -q -b feature && echo three >three && \
         git add three && git commit -qm three && git checkout -q topic && git rebase -q feature && git stash list && \
         git checkout -q main && git merge -q topic && git gc -q && git tag v1",
    )
    .await;
    // The host's files are as they were, so what the guest has beyond them is a change.
    assert_eq!(changes(&place).await, ["added three"]);
    let refs = format!(
        "git for-each-ref --format='%(refname) %(contents:subject)' refs/snowglobe/{}",
        place.name()
    );
    let name = place.name();
    assert_eq!(
        on_the_host(&repo(&place), &refs),
        ["feature", "main", "topic"]
            .map(|branch| format!("refs/snowglobe/{name}/{branch} three\n"))
            .concat()
    );
    assert_eq!(state(&place), before);
    on_the_host(&place.workspace, "git fsck");
    works(&place, &["apply"]).await;
    assert_eq!(on_the_host(&place.workspace, "cat three"), "three\n");
    // Files of the host come in; its commits are the host's.
    fs::write(place.workspace.join("newer"), "newer\n").unwrap();
    works(&place, &["sync"]).await;
    assert_eq!(
        guest(&place, "cat newer; git log -1 --format=%s").await,
        "newer\nthree\n"
    );
    assert_eq!(changes(&place).await, Vec::<String>::new());
    works(&place, &["stop"]).await;
    assert_eq!(
        guest(&place, "git log --format=%s").await,
        "three\ntwo\none\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_copy_of_a_worktree_has_what_the_host_committed_since() {
    let place = worktree();
    let seen = works(&place, &["exec", "--rm", "--", "git log --format=%s"]).await;
    assert_eq!(seen, "one\n");
    on_the_host(
        &place.workspace,
        "git commit -qam two && git -C ../repo commit -q --allow-empty -m host && git pack-refs --all && (git rebase -q main; true)",
    );
    let line = "git status && git log --format=%s --all && git reflog && git fsck --no-dangling";
    let seen = works(&place, &["exec", "--rm", "--", line]).await;
    assert_eq!(seen, on_the_host(&place.workspace, line));
    let bases = fs::read_dir(place.store().join("bases")).unwrap().count();
    assert_eq!(bases, 1, "a few newer files need no new base");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worktree_that_the_repository_does_not_name_has_none_in_its_copy() {
    let place = worktree();
    let lead = repo(&place).join(".git/worktrees/workspace/gitdir");
    fs::write(&lead, "/elsewhere/.git\n").unwrap();
    let before = on_the_host(&repo(&place), "git for-each-ref && ls .git");
    let (code, out, err) = run(&place, &["exec", "--", "git status"]).await;
    assert_eq!(code, 128, "{out}{err}");
    assert!(
        err.contains("it has this worktree at /elsewhere/.git; `git worktree repair`"),
        "{err}"
    );
    guest(&place, "rm .git; git init -q -b evil . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m evil").await;
    let all = json_of(&place, &["changes"]).await;
    assert_eq!(all["branches"].as_array().unwrap().len(), 0, "{all}");
    assert_eq!(
        on_the_host(&repo(&place), "git for-each-ref && ls .git"),
        before
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules_work_in_the_copy_of_a_worktree_and_as_a_workspace() {
    let place = worktree();
    on_the_host(
        &place.workspace,
        "git commit -qam two && git -c protocol.file.allow=always submodule --quiet add ../repo sub && git commit -qm sub",
    );
    let commit = "git -c user.name=a -c user.email=a@b commit -qam";
    let seen = guest(
        &place,
        &format!("cd sub && echo inner >file && {commit} inner && cd .. && git submodule status && {commit} bump && git status --short && git -C sub log --format=%s"),
    )
    .await;
    assert!(
        seen.starts_with('+') && seen.ends_with("\ninner\none\n"),
        "{seen}"
    );
    assert_eq!(changes(&place).await, ["modified sub/file"]);
    let name = place.name();
    let topic = format!("git log -1 --format=%s refs/snowglobe/{name}/topic");
    assert_eq!(on_the_host(&repo(&place), &topic), "bump\n");
    works(&place, &["stop"]).await;
    works(&place, &["rm", "--yes"]).await;
    // The submodule as the workspace.
    let sub = async |arguments: &[&str]| {
        let mut program = place.command(arguments);
        program
            .env("SNOWGLOBE_WORKSPACE_MODE", "copy")
            .current_dir(place.workspace.join("sub"));
        let (code, out, err) = ended(program).await;
        assert_eq!(code, 0, "{out}{err}");
        out
    };
    let before = on_the_host(&place.workspace, "cat sub/.git && git submodule status");
    let line = format!(
        "git status --short && echo more >more && git add more && {commit} more && git log --format=%s"
    );
    assert_eq!(sub(&["exec", "--", &line]).await, "more\none\n");
    let all: serde_json::Value = serde_json::from_str(&sub(&["changes", "--json"]).await).unwrap();
    let reference = all["branches"][0]["reference"].as_str().unwrap();
    let shown = format!("git -C sub log -1 --format=%s {reference}");
    assert_eq!(on_the_host(&place.workspace, &shown), "more\n");
    sub(&["stop"]).await;
    assert_eq!(
        on_the_host(&place.workspace, "cat sub/.git && git submodule status"),
        before
    );
}
