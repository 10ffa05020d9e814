//! A workspace that is a copy: nothing reaches the host unless a person takes it over, and nothing of either side is lost.

mod asked;
mod killed;
mod large;
mod losses;
mod sides;
mod terminal;
mod worktrees;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::common::{Place, Session, ended, eventually, on_the_host, runs, text};

/// A place whose sandbox has a copy of a repository.
fn repository(image: &'static str) -> Place {
    let place = Place::new(image);
    on_the_host(
        &place.workspace,
        "git init -q -b main . && seq 40 >numbers && mkdir src && echo 'int main;' >src/a.c && \
         printf 'target/\\n*.log\\n' >.gitignore && git add -A && git commit -qm one && echo mine >untracked && mkdir target && \
         echo big >target/object",
    );
    place
}

/// Runs the program in copy mode.
async fn run(place: &Place, arguments: &[&str]) -> (i32, String, String) {
    let mut program = place.command(arguments);
    program.env("SNOWGLOBE_WORKSPACE_MODE", "copy");
    ended(program).await
}

/// Runs the program in copy mode; it must work. Gives its standard output.
async fn works(place: &Place, arguments: &[&str]) -> String {
    let (code, out, err) = run(place, arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out
}

async fn guest(place: &Place, line: &str) -> String {
    works(place, &["exec", "--", line]).await
}

async fn json_of(place: &Place, arguments: &[&str]) -> Value {
    let out = works(place, &[arguments, &["--json"]].concat()).await;
    serde_json::from_str(&out).unwrap()
}

/// The changes, each as `KIND PATH`.
async fn changes(place: &Place) -> Vec<String> {
    let all = json_of(place, &["changes"]).await;
    let one = |change: &Value| {
        let flags = change["flags"].as_array().map_or(0, Vec::len);
        let flagged = if flags > 0 { " flagged" } else { "" };
        format!(
            "{} {}{flagged}",
            change["kind"].as_str().unwrap(),
            change["path"].as_str().unwrap()
        )
    };
    all["changes"].as_array().unwrap().iter().map(one).collect()
}

fn host(place: &Place, path: &str) -> String {
    fs::read_to_string(place.workspace.join(path)).unwrap()
}

async fn kept_pid(place: &Place) -> u32 {
    let status = json_of(place, &["status"]).await;
    u32::try_from(status["pid"].as_u64().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_seen_and_taken_over_by_file_and_by_hunk() {
    let place = repository("debian");
    let seen = guest(
        &place,
        "git status --short; cat untracked; ls; git log --format=%s; stat -c %U numbers",
    )
    .await;
    assert_eq!(
        seen,
        "?? untracked\nmine\nnumbers\nsrc\nuntracked\none\nsandbox\n"
    );
    guest(
        &place,
        "sed -i 's/^2$/two/; s/^30$/thirty/' numbers; mkdir new; echo made >new/file; mv src/a.c src/b.c; rm untracked; \
         chmod +x .gitignore; echo x >x.log; mkdir target; echo y >target/y; printf 'a\\0b' >binary; \
         mkdir .vscode; echo '{}' >.vscode/tasks.json; ln -s /etc/passwd out; ln -s new/file in; \
         git add -A; git -c user.name=a -c user.email=a@b commit -qm guest; git checkout -q -b topic",
    )
    .await;
    let expected = [
        "mode .gitignore",
        "added .vscode/tasks.json flagged",
        "added binary",
        "added in",
        "added new/file",
        "modified numbers",
        "added out flagged",
        "renamed src/b.c",
        "removed untracked",
    ];
    assert_eq!(changes(&place).await, expected);
    // Nothing of it is on the host.
    let clean = "git status --short && git log --format=%s main";
    assert_eq!(on_the_host(&place.workspace, clean), "?? untracked\none\n");
    let branches = on_the_host(
        &place.workspace,
        "git for-each-ref --format='%(refname) %(contents:subject)' refs/snowglobe",
    );
    let name = place.name();
    assert_eq!(
        branches,
        format!("refs/snowglobe/{name}/main guest\nrefs/snowglobe/{name}/topic guest\n")
    );
    let diff = works(&place, &["diff", "numbers", "new"]).await;
    assert!(
        diff.contains("--- a/numbers\n+++ b/numbers\n@@ -1,5 +1,5 @@\n 1\n-2\n+two\n"),
        "{diff}"
    );
    assert!(
        diff.contains("--- /dev/null\n+++ b/new/file\n@@ -0,0 +1 @@\n+made\n"),
        "{diff}"
    );
    // A diff is what `patch` takes.
    let patched = tempfile::tempdir().unwrap();
    fs::write(patched.path().join("numbers"), host(&place, "numbers")).unwrap();
    fs::write(patched.path().join("diff"), &diff).unwrap();
    on_the_host(patched.path(), "git apply diff");
    assert!(
        fs::read_to_string(patched.path().join("numbers"))
            .unwrap()
            .contains("thirty")
    );

    works(&place, &["apply", "numbers:2", "new"]).await;
    assert!(host(&place, "numbers").contains("thirty") && !host(&place, "numbers").contains("two"));
    assert_eq!(host(&place, "new/file"), "made\n");
    assert!(
        changes(&place)
            .await
            .contains(&"modified numbers".to_owned()),
        "a hunk is left"
    );
    let done = json_of(&place, &["apply"]).await;
    assert_eq!(done["left"].as_array().unwrap().len(), 2, "{done}");
    assert_eq!(
        changes(&place).await,
        ["added .vscode/tasks.json flagged", "added out flagged"]
    );
    let now = on_the_host(
        &place.workspace,
        "git status --short --no-renames; test -x .gitignore && cat src/b.c && test ! -e src/a.c && readlink in",
    );
    assert!(
        now.ends_with("int main;\nnew/file\n") && !now.contains("out") && !now.contains("vscode"),
        "{now}"
    );
    let again = json_of(&place, &["apply"]).await;
    assert_eq!(again["done"], json!([]), "apply twice is apply once");
    works(&place, &["apply", "out"]).await;
    assert!(place.workspace.join("out").is_symlink(), "it was named");

    for _ in 0..3 {
        works(&place, &["apply", "--undo"]).await;
    }
    assert_eq!(on_the_host(&place.workspace, clean), "?? untracked\none\n");
    let (code, _, err) = run(&place, &["apply", "--undo"]).await;
    assert!(code == 125 && err.contains("nothing was applied"), "{err}");
    assert_eq!(changes(&place).await, expected, "they are changes again");
    works(
        &place,
        &["discard", "--yes", "numbers:1", "src", "untracked", "out"],
    )
    .await;
    assert_eq!(
        guest(&place, "sed -n '2p;30p' numbers; ls src untracked").await,
        "2\nthirty\nuntracked\n\nsrc:\na.c\n"
    );
    works(&place, &["discard", "--yes", "--all"]).await;
    assert_eq!(changes(&place).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_survives_its_machines() {
    let place = repository("debian");
    guest(&place, "echo one >work; cat work").await;
    works(&place, &["stop"]).await;
    assert_eq!(guest(&place, "cat work").await, "one\n");
    works(&place, &["snapshot", "save", "a"]).await;
    guest(&place, "echo two >>work").await;
    let session = Session::over({
        let mut command = place.command(&["serve"]);
        command.env("SNOWGLOBE_WORKSPACE_MODE", "copy");
        command
    })
    .await;
    session.call("reboot", json!({})).await;
    assert_eq!(session.stdout("cat work").await, "one\ntwo\n");
    works(&place, &["snapshot", "restore", "a"]).await;
    assert_eq!(session.stdout("cat work").await, "one\n");
    session.exec("echo three >>work").await;
    session.close().await;
    // What a command wrote is on the disk soon after its end, and a process that is killed loses no more.
    let pid = kept_pid(&place).await;
    guest(&place, "sync work").await;
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    eventually("it is gone", || !runs(pid)).await;
    assert_eq!(guest(&place, "cat work").await, "one\nthree\n");
    assert_eq!(changes(&place).await, ["added work"]);
    // A sandbox of its own has a copy of its own, of the host's directory.
    assert_eq!(
        works(&place, &["exec", "--rm", "--", "ls; echo lost >lost"]).await,
        "numbers\nsrc\nuntracked\n"
    );
    fs::write(place.workspace.join("newer"), "newer").unwrap();
    fs::remove_file(place.workspace.join("src/a.c")).unwrap();
    assert_eq!(
        works(&place, &["exec", "--rm", "--", "ls . src; cat newer"]).await,
        ".:\nnewer\nnumbers\nsrc\nuntracked\n\nsrc:\nnewer"
    );
    let bases = fs::read_dir(place.store().join("bases")).unwrap().count();
    assert_eq!(bases, 1, "a few newer files need no new base");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_sees_its_changes_and_applies_none_by_itself() {
    let place = repository("debian");
    let serve = |more: &[(&str, &str)]| {
        let mut command = place.command(&["serve", "--rm"]);
        command
            .env("SNOWGLOBE_WORKSPACE_MODE", "copy")
            .envs(more.iter().copied());
        command
    };
    let session = Session::over(serve(&[])).await;
    session.exec("echo made >made; sed -i 1d numbers").await;
    let listed = text(&session.raw("changes", json!({})).await);
    assert!(
        listed.contains("added    made (+1 -0)\nmodified numbers (+0 -1)\n"),
        "{listed}"
    );
    let diff = text(
        &session
            .raw("changes", json!({"action": "diff", "paths": ["made"]}))
            .await,
    );
    assert!(
        diff.starts_with(
            "diff --git a/made b/made\nnew file mode 100644\n--- /dev/null\n+++ b/made\n@@ -0,0 +1 @@\n+made\n"
        ),
        "{diff}"
    );
    let refused = session.error("changes", json!({"action": "apply"})).await;
    assert!(
        refused.contains("a person must confirm") && refused.contains("snowglobe apply"),
        "{refused}"
    );
    assert!(!place.workspace.join("made").exists());
    session
        .call(
            "changes",
            json!({"action": "discard", "paths": ["numbers"]}),
        )
        .await;
    assert!(!text(&session.raw("changes", json!({})).await).contains("numbers"));
    session.close().await;

    let session = Session::over(serve(&[("SNOWGLOBE_CONFIRM_APPLY", "never")])).await;
    session.exec("echo made >made").await;
    session.call("changes", json!({"action": "apply"})).await;
    assert_eq!(host(&place, "made"), "made\n");
    session.close().await;
    // Where nothing is copied there is nothing to review.
    let session = place.serve().await;
    assert!(
        session
            .error("changes", json!({}))
            .await
            .contains("changes")
    );
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_root_plants_is_taken_over_or_runs() {
    const PLANTED: &[&str] = &[
        "mkdir .vscode; echo '{}' >.vscode/tasks.json",
        "echo 'touch $PWNED' >.envrc",
        "mkdir .claude; echo '{}' >.claude/settings.json",
        "echo '{}' >.mcp.json; mkdir .cursor; echo '{}' >.cursor/mcp.json",
        "echo 'network.hosts = [\"*\"]' >snowglobe.toml",
        "mkdir -p fake/objects fake/refs; printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >fake/config; echo 'ref: refs/heads/main' >fake/HEAD; echo x >fake/objects/x; echo x >fake/refs/x",
        "ln -s ../../outside up; ln -s /etc abs; mkdir d; ln -s ../../x d/up",
        "printf '#!/bin/sh\\ntouch $PWNED\\n' >.git/hooks/post-commit; cp .git/hooks/post-commit .git/hooks/reference-transaction; chmod +x .git/hooks/*",
        "git config core.fsmonitor 'touch $PWNED; false'; git config core.pager 'touch $PWNED'; git config alias.status '!touch $PWNED'",
        "mkdir sub; echo 'gitdir: ../fake' >sub/.git; mkdir -p deep/.GIT/hooks; echo x >deep/.GIT/hooks/x",
        "cp /bin/true suid; chmod 4755 suid; mknod dev c 1 3; mkfifo pipe",
        "echo 'path = ../../evil' >.gitmodules; echo '* filter=evil diff=evil' >.gitattributes",
    ];
    let place = repository("debian");
    let pwned = place.dir.path().join("pwned");
    for line in PLANTED {
        let line = line.replace("$PWNED", &pwned.display().to_string());
        let (code, _, err) = run(&place, &["exec", "--root", "--", &line]).await;
        assert_eq!(code, 0, "{line}: {err}");
    }
    guest(&place, "git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c user.name=a -c user.email=a@b commit -q --allow-empty -m evil").await;
    works(&place, &["changes"]).await;
    works(&place, &["apply"]).await;
    let day = "git status && git diff && git log --all --oneline && git commit -q --allow-empty -m x && git branch -a && git fsck";
    on_the_host(&place.workspace, day);
    assert!(!pwned.exists(), "something ran");
    let there = on_the_host(
        &place.workspace,
        "find . -path ./.git -prune -o -print | sort",
    );
    for path in [
        "vscode",
        "envrc",
        "claude",
        "mcp",
        "cursor",
        "snowglobe.toml",
        "fake/config",
        "up",
        "abs",
        ".GIT",
        "sub/.git",
        "suid",
        "dev",
        "pipe",
    ] {
        assert!(
            !there.lines().any(|line| line.ends_with(path)),
            "{path} is there: {there}"
        );
    }
    let hooks = fs::read_dir(place.workspace.join(".git/hooks")).unwrap();
    let mut hooks = hooks.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(hooks.all(|hook| hook.ends_with(".sample")));
    let config = host(&place, ".git/config");
    assert!(
        !config.contains("fsmonitor") && !config.contains("alias"),
        "{config}"
    );
    // Named, a protected file is taken: a person has read it. Git's own files are not.
    works(&place, &["apply", ".envrc", "suid"]).await;
    assert!(place.workspace.join(".envrc").exists());
    let mode = fs::metadata(place.workspace.join("suid"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755, "setuid is not taken");
    let (_, _, err) = run(&place, &["apply", "--flagged"]).await;
    assert!(
        !place.workspace.join("deep/.GIT").exists() && !place.workspace.join("sub/.git").exists(),
        "{err}"
    );
}
