//! A workspace that is a worktree: its repository is shared, too, and nothing of it is lost or turned against the host.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::common::{Place, Session, descendants, on_the_host, text};

/// A repository beside the workspace, which is its worktree `workspace`; another worktree has work in progress.
fn worktree(image: &'static str) -> Place {
    let place = Place::new(image);
    fs::create_dir(place.dir.path().join("repo")).unwrap();
    on_the_host(
        &repo(&place),
        "git init -q -b main . && echo one >file && git add -A && git commit -qm one && git worktree add -q -b topic ../workspace && \
         git worktree add -q -b other ../other && cd ../other && echo theirs >theirs && git add theirs && echo more >>theirs",
    );
    place
}

fn repo(place: &Place) -> PathBuf {
    place.dir.path().join("repo")
}

/// A line for the host, in a directory beside the workspace.
fn beside(place: &Place, name: &str, line: &str) -> String {
    on_the_host(&place.dir.path().join(name), line)
}

/// What an agent does with git all day, in a worktree.
const ORDINARY: &[&str] = &[
    "git status && git log --oneline | grep -c . | grep -qx 1",
    "git config user.name agent && git config user.email a@example",
    "echo two >>file && git commit -qam two",
    "git branch feature && git checkout -q feature && echo three >other && git add other && git commit -qm three",
    "git checkout -q topic && echo four >more && git add more && git commit -qm four",
    "git checkout -q feature && git rebase -q topic && git log --oneline | grep -c . | grep -qx 4",
    "git checkout -q topic && git merge -q --no-edit feature && git tag v1",
    "echo five >>file && git stash -q && git diff --quiet && git stash pop -q && git checkout -q file",
    "git worktree list | grep -c . | grep -qx 3",
    "git log -1 --format=%s main | grep -qx one",
    "git fetch -q . main:from-main && git branch -q -D from-main",
    "git reset -q --hard HEAD~1 && git reset -q --hard ORIG_HEAD && git cherry-pick --quit",
    "git bisect start && git bisect reset && git notes add -m note && git reflog | grep -q .",
];

#[tokio::test(flavor = "multi_thread")]
async fn git_works_in_a_worktree_and_the_host_sees_what_it_did() {
    let place = worktree("debian");
    let lead = repo(&place).join(".git/worktrees/workspace/gitdir");
    let led = fs::read_to_string(&lead).unwrap();
    let session = place.serve().await;
    let first = session.raw("exec", json!({"command": "true"})).await;
    let shared = repo(&place).join(".git").display().to_string();
    let told =
        format!("the git repository of /workspace is {shared} on the host, and is shared, too");
    assert!(text(&first).contains(&told), "{}", text(&first));
    let second = session.raw("exec", json!({"command": "true"})).await;
    assert!(!text(&second).contains("shared, too"));
    for line in ORDINARY {
        let result = session.exec(line).await;
        assert_eq!(result["exit_code"], 0, "{line}: {result}");
    }
    assert_eq!(fs::read_to_string(&lead).unwrap(), led);
    let log = on_the_host(
        &place.workspace,
        "git fsck --no-dangling && git status --short && git log --format=%s",
    );
    assert_eq!(log, "three\nfour\ntwo\none\n");
    // Each side sees the other's commits at once.
    beside(
        &place,
        "repo",
        "echo host >host && git add host && git commit -qm host",
    );
    assert_eq!(
        session.stdout("git log -1 --format=%s main").await,
        "host\n"
    );
    // A machine that takes the place of another has the repository, too.
    session
        .call("snapshot", json!({"action": "save", "name": "a"}))
        .await;
    session.call("reboot", json!({})).await;
    session.stdout("git status").await;
    session
        .call("snapshot", json!({"action": "restore", "name": "a"}))
        .await;
    assert_eq!(session.stdout("git log -1 --format=%s").await, "three\n");
    session.close().await;
}

/// Git in the guest can't see the directories of other worktrees.
#[tokio::test(flavor = "multi_thread")]
async fn git_in_the_guest_removes_nothing_of_other_worktrees() {
    let place = worktree("debian");
    let before = beside(
        &place,
        "other",
        "git status --short && git reflog && cat \"$(git rev-parse --git-dir)\"/gitdir",
    );
    let session = place.serve().await;
    for line in [
        "git -c user.name=x -c user.email=x@example commit -q --allow-empty -m x",
        "git worktree prune -v --expire=now",
        "git gc -q --prune=now",
        "git gc -q --auto",
        "git repack -a -d -q && git pack-refs --all && git prune",
        "git reflog expire --expire=now --expire-unreachable=now --all; git gc -q --prune=now",
        "git worktree remove --force other; git worktree unlock other; git branch -D other; git worktree add -q ../new",
        "rm -rf \"$(git rev-parse --git-common-dir)/worktrees/other\"",
    ] {
        let result = session.exec(line).await;
        let must_work = line.starts_with("git gc") || line.starts_with("git repack");
        assert!(!must_work || result["exit_code"] == 0, "{line}: {result}");
    }
    session.stdout("git status").await;
    session.close().await;
    let after = beside(
        &place,
        "other",
        "git status --short && git reflog && cat \"$(git rev-parse --git-dir)\"/gitdir",
    );
    assert_eq!(after, before);
    beside(
        &place,
        "other",
        "git fsck && git commit -qam theirs && git log -1",
    );
    let all = beside(&place, "repo", "git worktree prune -v && git worktree list");
    assert_eq!(all.lines().count(), 3, "{all}");
    on_the_host(&place.workspace, "git status && git log -1");
}

/// What would run on the host, or lead its git elsewhere. Each is a line for the guest's root, in the repository's directory.
const ATTACKS: &[&str] = &[
    "printf '#!/bin/sh\\ntouch $PWNED\\n' >hooks/pre-commit && chmod +x hooks/pre-commit",
    "mkdir h && printf '#!/bin/sh\\ntouch $PWNED\\n' >h/post-checkout && mv hooks old && mv h hooks",
    "git config core.fsmonitor 'touch $PWNED; false'",
    "git config core.sshCommand 'touch $PWNED'",
    "git config core.hooksPath evil",
    "git config alias.st '!touch $PWNED'",
    "git config filter.x.clean 'touch $PWNED'",
    "git config include.path ../evil",
    "git config core.worktree /",
    "printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >>config",
    "printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >x && mv x config",
    "printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >x && ln -f x config",
    "ln config also && printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >>also",
    "printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >worktrees/workspace/config.worktree && false",
    "printf 'customCommands: [{command: touch $PWNED}]' >lazygit.yml",
    "echo /tmp/elsewhere/.git >worktrees/workspace/gitdir",
    "rm worktrees/workspace/gitdir",
    "echo ../../elsewhere >worktrees/workspace/commondir",
    "mkdir -p e/objects e/refs && printf '[core]\\nfsmonitor=x\\n' >e/config && cp HEAD e/HEAD && echo ../../e >worktrees/workspace/commondir",
    "echo /tmp/elsewhere/.git >worktrees/other/gitdir",
    "echo ../../e >worktrees/other/commondir",
    "printf '[core]\\nfsmonitor=x\\n' >worktrees/other/config.worktree",
    "echo 'ref: refs/heads/topic' >worktrees/other/HEAD",
    "mv worktrees/other worktrees/gone",
    "mv worktrees elsewhere",
    "ln worktrees/other/index worktrees/workspace/second",
    "mkdir worktrees/new",
    "echo 'ref: refs/heads/topic' >HEAD",
    "rm index",
    "touch index.lock",
    "mkdir rebase-merge",
    // The repository's settings say that these are its hooks.
    "echo 'touch $PWNED' >>/workspace/tools/pre-commit",
    "printf '#!/bin/sh\\ntouch $PWNED\\n' >/workspace/tools/post-checkout && chmod +x /workspace/tools/post-checkout",
];

async fn tries(session: &Session, line: &str, cwd: &Path) -> serde_json::Value {
    let call = json!({"command": line, "user": "root", "cwd": cwd});
    session.call("exec", call).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_root_plants_in_the_repository_runs_on_the_host() {
    let place = worktree("debian");
    beside(
        &place,
        "repo",
        "git config core.hooksPath tools && git config extensions.worktreeConfig true",
    );
    let tools = place.workspace.join("tools");
    fs::create_dir(&tools).unwrap();
    crate::common::executable(&tools.join("pre-commit"), "#!/bin/sh\n");
    let git = repo(&place).join(".git");
    let state = |path: &str| fs::read_to_string(git.join(path)).unwrap();
    let kept = [
        "HEAD",
        "worktrees/workspace/gitdir",
        "worktrees/workspace/commondir",
        "worktrees/other/HEAD",
        "worktrees/other/gitdir",
    ];
    let before = kept.map(state);
    let config = state("config");
    let session = place.serve().await;
    for line in ATTACKS {
        let result = tries(&session, line, &git).await;
        assert_ne!(result["exit_code"], 0, "{line} was done");
        let tidy =
            "rm -rf x also e h worktrees/workspace/config.worktree; test -e hooks || mv old hooks";
        assert_eq!(tries(&session, tidy, &git).await["exit_code"], 0, "{line}");
        assert_eq!(kept.map(state), before, "{line}");
        let left = fs::read_to_string(git.join("config")).unwrap_or_default();
        for planted in ["PWN", "fsmonitor", "alias"] {
            assert!(!left.contains(planted), "{line}: {left}");
        }
        fs::write(git.join("config"), &config).unwrap();
    }
    let pwned = place.dir.path().join("pwned");
    let day = format!(
        "export PWNED={}; git status; git diff; echo more >>file; git commit -qam more; git checkout -q -b new; git stash list",
        pwned.display()
    );
    for worktree in ["workspace", "other", "repo"] {
        beside(
            &place,
            worktree,
            &day.replace("-b new", &format!("-b new-{worktree}")),
        );
    }
    assert!(!pwned.exists());
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_files_and_a_read_only_workspace_include_the_repository() {
    let place = worktree("debian");
    let git = repo(&place).join(".git");
    fs::write(git.join("key.pem"), "secret").unwrap();
    place.configure("hide = [\"*.pem\"]\nworkspace_read_only = true\n");
    let mut server = place.command(&["serve", "--rm"]);
    server.env("XDG_CONFIG_HOME", place.dir.path().join("config"));
    let session = Session::over(server).await;
    session.stdout("git status && git log").await;
    assert_ne!(tries(&session, "cat key.pem", &git).await["exit_code"], 0);
    for line in ["touch x", "echo >>packed-refs", "rm -rf objects"] {
        let said = tries(&session, line, &git).await;
        assert!(
            said["stderr"].as_str().unwrap().contains("ead-only"),
            "{line}: {said}"
        );
    }
    assert_ne!(session.exec("git tag x").await["exit_code"], 0);
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relative_worktrees_and_submodules_work() {
    let place = worktree("debian");
    on_the_host(
        &place.workspace,
        "echo 'gitdir: ../repo/.git/worktrees/workspace' >.git && echo ../../../../workspace/.git >../repo/.git/worktrees/workspace/gitdir && \
         git -c protocol.file.allow=always submodule -q add ../repo sub && git commit -qm sub",
    );
    let session = place.serve().await;
    session.stdout("git status && git worktree list").await;
    let line = "cd sub && echo x >x && git add x && git -c user.name=x -c user.email=x@example commit -qm inner";
    assert_eq!(session.stdout(line).await, "");
    session.close().await;
    on_the_host(
        &place.workspace,
        "git -C sub log -1 --format=%s | grep -qx inner && git commit -qam bump",
    );
    // The submodule as the workspace.
    let mut command = place.command(&["serve", "--rm"]);
    command.current_dir(place.workspace.join("sub"));
    let session = Session::over(command).await;
    assert_eq!(
        session
            .stdout("git log -1 --format=%s && git status --short")
            .await,
        "inner\n"
    );
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_can_not_be_shared_is_said() {
    let place = worktree("minimal");
    let session = place.serve_kept().await;
    session.exec("true").await;
    let (_, out, _) = place.run(&["status"]).await;
    let git = repo(&place).join(".git").display().to_string();
    assert!(
        out.contains(&format!("repository {git}, shared, too")),
        "{out}"
    );
    let (_, out, _) = place.run(&["doctor"]).await;
    assert!(
        out.contains(&format!("ok       repository       {git}")),
        "{out}"
    );
    session.close().await;
    place.run(&["stop"]).await;
    // Now git itself would not take it for the worktree.
    let lead = repo(&place).join(".git/worktrees/workspace/gitdir");
    fs::write(lead, "/elsewhere/.git\n").unwrap();
    let said = "it has this worktree at /elsewhere/.git; `git worktree repair`";
    let (_, out, err) = place.run(&["start"]).await;
    assert!(err.contains(said), "{out}{err}");
    let session = place.serve_kept().await;
    let first = session.raw("exec", json!({"command": "true"})).await;
    assert!(text(&first).contains(said), "{}", text(&first));
    assert_ne!(session.exec(&format!("ls {git}")).await["exit_code"], 0);
    session.close().await;
    let (_, out, _) = place.run(&["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(
        status["git_trouble"].as_str().unwrap().contains(said),
        "{out}"
    );
    assert_eq!(status["repository"], serde_json::Value::Null);
    let (_, out, _) = place.run(&["doctor"]).await;
    assert!(
        out.contains("note     repository") && out.contains("-> `git worktree repair`"),
        "{out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn if_the_server_of_the_repository_is_killed_the_machine_ends() {
    let place = worktree("minimal");
    let session = place.serve().await;
    session.exec("true").await;
    let servers = descendants(session.pid).into_iter().filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"share")
    });
    let servers: Vec<u32> = servers.collect();
    assert_eq!(servers.len(), 2);
    // The one that was started last serves the repository.
    let server = servers.into_iter().max().unwrap();
    let server = rustix::process::Pid::from_raw(server.cast_signed()).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
    let said = session.error("exec", json!({"command": "sleep 600"})).await;
    assert!(said.contains("snowglobe.repository"), "{said}");
    assert_eq!(session.exec("true").await["exit_code"], 0);
    session.close().await;
}
