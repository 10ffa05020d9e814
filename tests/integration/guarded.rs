//! What the guest's root plants in the workspace does not run on the host, and ordinary work goes on.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::common::{Place, Session, Small, on_the_host};

/// A repository on the host, with a remote, a commit and a hook of its own.
fn repository(place: &Place) {
    let remote = place.dir.path().join("remote.git");
    let line = format!(
        "git init -q --bare {0} && git init -q -b main . && echo one >file && git add -A && git commit -qm one && \
         git remote add origin {0} && git push -q origin main && git branch -q -u origin/main",
        remote.display()
    );
    on_the_host(&place.workspace, &line);
}

/// What an agent does with git all day.
const ORDINARY: &[&str] = &[
    "git config user.name agent && git config user.email a@example",
    "git checkout -q -b topic && echo two >>file && git commit -qam two",
    "git checkout -q main && echo three >other && git add other && git commit -qm three",
    "git checkout -q topic && git rebase -q main && git log --oneline | grep -c . | grep -qx 3",
    "echo four >>file && git stash -q && git stash pop -q && git checkout -q file",
    "git branch -q --set-upstream-to=main topic && git remote add elsewhere https://example.com/x.git",
    "git tag v1 && git merge -q --no-edit main && git gc -q",
    "git worktree add -q ../tree 2>/dev/null || git worktree add -q tree && git worktree list | grep -q tree",
    "git init -q inner && cd inner && echo x >x && git add x && git commit -qm x",
    "git clone -q . copy && cd copy && git log --oneline | grep -q .",
    "npm_like=node_modules/.bin; mkdir -p $npm_like && echo '#!/bin/sh' >$npm_like/tool && chmod +x $npm_like/tool",
    "printf 'all:\\n\\techo made\\n' >Makefile && rm -rf build && mkdir build && mv file moved && mv moved file",
];

/// What would run on the host. Each is a line for the guest's root.
const ATTACKS: &[&str] = &[
    "echo 'touch $PWNED' >.git/hooks/pre-commit",
    "mkdir -p .git/hooks && printf '#!/bin/sh\\ntouch $PWNED\\n' >.git/hooks/post-checkout && chmod +x .git/hooks/post-checkout",
    "rm -f .git/logs/HEAD; ln -s ../../../pwned .git/logs/HEAD",
    "rm -rf .git/logs/refs; mkdir -p x/heads && ln -s ../../../../../pwned x/heads/main && mv x .git/logs/refs",
    "ln -s ../../pwned x; mv -T x .git/COMMIT_EDITMSG",
    "ln -s ../../pwned x; ln -f -P x .git/COMMIT_EDITMSG",
    "git config core.fsmonitor 'touch $PWNED; false'",
    "git config core.pager 'touch $PWNED; cat'",
    "git config core.sshCommand 'touch $PWNED'",
    "git config core.hooksPath evil",
    "git config diff.external 'touch $PWNED'",
    "git config alias.st '!touch $PWNED'",
    "git config filter.x.clean 'touch $PWNED' ",
    "git config credential.helper '!touch $PWNED'",
    "git config include.path ../evil",
    "git config remote.origin.uploadpack 'touch $PWNED; git-upload-pack'",
    "git config url.ext::sh.insteadOf https://",
    "printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >>.git/config",
    "printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >x && mv x .git/config",
    "printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >x && cp x .git/config",
    "printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >x && ln -f x .git/config",
    "ln .git/config also && printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >>also",
    "python3 -c 'import mmap; f = open(\".git/config\", \"r+b\"); m = mmap.mmap(f.fileno(), 0); m[:20] = b\"[alias] s = !t $PWND\"; m.flush()'; false",
    "mkdir fake && mkdir fake/objects fake/refs && printf '[core]\\n\\tfsmonitor = touch $PWNED\\n' >fake/config && echo 'ref: refs/heads/main' >fake/HEAD",
    "mkdir -p new/hooks && echo 'touch $PWNED' >new/hooks/pre-commit && mv .git old && mv new .git",
    "mkdir sub && echo 'gitdir: ../evil' >sub/.git && mkdir -p evil/objects evil/refs && printf '[core]\\nfsmonitor=x\\n' >evil/config && cp .git/HEAD evil/HEAD",
    "mkdir -p .vscode && echo '{}' >.vscode/tasks.json",
    "mkdir .idea",
    "echo 'touch $PWNED' >.envrc",
    "mkdir .claude && echo '{}' >.claude/settings.json",
    "echo '{}' >.mcp.json",
    "mkdir .cursor && echo '{}' >.cursor/mcp.json",
    "echo 'network.hosts = [\"*\"]' >snowglobe.toml",
    "mkdir safe && echo '{}' >safe/tasks.json && mv safe .vscode",
];

/// What editors, agents and shells run when they open a folder. Each is a line that plants it.
const OPENED: &[&str] = &[
    r#"mkdir .vscode; echo '{"tasks": [{"command": "touch $PWNED", "runOptions": {"runOn": "folderOpen"}}]}' >.vscode/tasks.json"#,
    r#"mkdir .vscode; printf '#!/bin/sh\ntouch $PWNED\n' >tool; chmod +x tool; echo '{"python.defaultInterpreterPath": "./tool"}' >.vscode/settings.json"#,
    r#"echo '{"settings": {"git.path": "./tool"}}' >all.code-workspace; printf '#!/bin/sh\ntouch $PWNED\n' >tool; chmod +x tool"#,
    r#"echo '{"mcpServers": {"x": {"command": "sh", "args": ["-c", "touch $PWNED"]}}}' >.mcp.json"#,
    r#"mkdir .cursor; echo '{"mcpServers": {"x": {"command": "sh", "args": ["-c", "touch $PWNED"]}}}' >.cursor/mcp.json"#,
    r#"mkdir .claude; echo '{"hooks": {"SessionStart": [{"hooks": [{"command": "touch $PWNED"}]}]}}' >.claude/settings.json"#,
    "echo 'touch $PWNED' >.envrc",
    "echo 'touch $PWNED' >.exrc",
    "mkdir .zed; echo 'touch $PWNED' >.zed/tasks.json",
    // A prompt that shows git's state asks git at each line.
    "git config core.fsmonitor 'touch $PWNED; false'",
    "mkdir -p deep/.git/objects deep/.git/refs; cp .git/HEAD deep/.git; printf '[core]\\n\\tfsmonitor = touch $PWNED; false\\n' >deep/.git/config; rm .git -r; mv deep/.git .",
];

/// A person opens the folder in an editor, and goes there with a shell whose prompt shows git's state.
fn opens(folder: &Path, pwned: &Path) {
    let editor = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/editor.py");
    let line = format!(
        "export PWNED={}; python3 {editor} {} >/dev/null 2>&1; bash -c '. /usr/lib/git-core/git-sh-prompt; \
         GIT_PS1_SHOWDIRTYSTATE=1 GIT_PS1_SHOWUNTRACKEDFILES=1 __git_ps1'",
        pwned.display(),
        folder.display()
    );
    on_the_host(folder, &line);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_and_a_prompt_run_nothing_that_root_plants() {
    let place = Place::new("debian");
    repository(&place);
    let pwned = place.dir.path().join("pwned");
    // On the host each of them works: what follows would find it.
    for line in OPENED {
        let elsewhere = place.dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        on_the_host(&elsewhere, &format!("git init -q; {line}"));
        opens(&elsewhere, &pwned);
        assert!(fs::remove_file(&pwned).is_ok(), "{line} does nothing");
        fs::remove_dir_all(&elsewhere).unwrap();
    }
    let session = place.serve().await;
    for line in OPENED {
        tries(&session, line).await;
    }
    opens(&place.workspace, &pwned);
    assert!(!pwned.exists());
    session.close().await;
}

async fn tries(session: &Session, line: &str) -> serde_json::Value {
    session
        .call("exec", json!({"command": line, "user": "root"}))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_root_plants_runs_on_the_host() {
    let place = Place::new("debian");
    repository(&place);
    let config = place.workspace.join(".git/config");
    let before = fs::read_to_string(&config).unwrap();
    let session = place.serve().await;
    for line in ATTACKS {
        let result = tries(&session, line).await;
        assert_ne!(result["exit_code"], 0, "{line} was done");
        // What was left of it may stay, except where the next attack begins.
        let tidy = "rm -rf x also fake new sub evil safe; test -e .git/HEAD || { rm -rf .git; mv old .git; }";
        assert_eq!(tries(&session, tidy).await["exit_code"], 0, "{line}");
        // Root may lose the settings, as it may remove the repository; it adds none that runs.
        let left = fs::read_to_string(&config).unwrap_or_default();
        for planted in ["PWN", "fsmonitor", "alias"] {
            assert!(!left.contains(planted), "{line}: {left}");
        }
        fs::write(&config, &before).unwrap();
    }
    // The user goes on, as every day.
    let pwned = place.dir.path().join("pwned");
    let day = format!(
        "export PWNED={}; git status; git diff; git pull -q; echo more >>file; git commit -qam more; git log -1; \
         git checkout -q -b other; git fetch -q; git stash list; find . -maxdepth 2 -type d -not -path '*/.git/*' -exec git -C {{}} status ';'",
        pwned.display()
    );
    on_the_host(&place.workspace, &day);
    assert!(!pwned.exists());
    for planted in [
        ".vscode",
        ".idea",
        ".envrc",
        ".claude",
        ".mcp.json",
        "snowglobe.toml",
    ] {
        assert!(!place.workspace.join(planted).exists(), "{planted}");
    }
    let hooks = fs::read_dir(place.workspace.join(".git/hooks")).unwrap();
    let mut hooks = hooks.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(hooks.all(|hook| hook.ends_with(".sample")));
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_work_goes_on() {
    let place = Place::new("debian");
    repository(&place);
    let session = place.serve().await;
    for line in ORDINARY {
        let result = session.exec(line).await;
        assert_eq!(result["exit_code"], 0, "{line}: {result}");
    }
    assert_eq!(
        on_the_host(&place.workspace, "git log --oneline topic | wc -l").trim(),
        "3"
    );
    session.close().await;
}

/// A server of a user with this configuration.
async fn configured(place: &Place, text: &str) -> Session {
    place.configure(text);
    let mut server = place.command(&["serve", "--rm"]);
    server.env("XDG_CONFIG_HOME", place.dir.path().join("config"));
    Session::over(server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_files_are_absent_and_a_read_only_workspace_stays_as_it_is() {
    let place = Place::new("minimal");
    let host = &place.workspace;
    fs::create_dir(host.join("deep")).unwrap();
    // More hidden files than one answer of the server holds, and others behind them.
    for number in 0..600 {
        fs::write(host.join(format!("deep/.env.{number}")), "secret").unwrap();
    }
    for secret in [".env", ".env.local", "deep/key.pem", "deep/plain"] {
        fs::write(host.join(secret), "secret").unwrap();
    }
    let session = configured(&place, "hide = [\".env*\", \"*.pem\"]\n").await;
    assert_eq!(session.stdout("find . -type f").await, "./deep/plain\n");
    for line in [
        "cat .env",
        "echo x >.env",
        "mkdir .env.d",
        "mv deep/plain .env.local",
        "ln deep/plain deep/other.pem",
        "rm deep/key.pem",
        "mv deep/key.pem here",
    ] {
        assert_ne!(tries(&session, line).await["exit_code"], 0, "{line}");
    }
    session.close().await;
    let session = configured(&place, "workspace_read_only = true\n").await;
    assert_eq!(
        session.stdout("cat .env deep/key.pem").await,
        "secretsecret"
    );
    for line in [
        "echo x >new",
        "echo x >>deep/plain",
        "rm deep/plain",
        "mkdir d",
        "chmod 600 deep/plain",
        "touch deep/plain",
    ] {
        let said = tries(&session, line).await;
        assert_ne!(said["exit_code"], 0, "{line}");
        assert!(
            said["stderr"].as_str().unwrap().contains("ead-only"),
            "{line}: {said}"
        );
    }
    assert_eq!(fs::read_dir(host).unwrap().count(), 3);
    session.close().await;
}

/// Runs `snowglobe` to its end; gives whether it succeeded, and what it printed on both streams.
async fn snowglobe(place: &Place, arguments: &[&str]) -> (bool, String, String) {
    let mut command = place.command(arguments);
    command.env("XDG_CONFIG_HOME", place.dir.path().join("config"));
    let done = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        done.status.success(),
        text(&done.stdout),
        text(&done.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_changes_the_rules_of_a_sandbox_that_runs() {
    let place = Place::new("minimal");
    let file = place.configure("# mine\n");
    let make = ["exec", "mkdir .vscode && echo '{}' >.vscode/tasks.json"];
    let (done, _, said) = snowglobe(&place, &make).await;
    assert!(
        !done && said.contains("was refused: .vscode; the rule `vscode`: "),
        "{said}"
    );
    assert!(said.contains("snowglobe protect allow vscode"), "{said}");
    let (done, _, said) = snowglobe(&place, &["protect", "allow", "vs-code"]).await;
    assert!(!done && said.contains("did you mean `vscode`?"), "{said}");
    let (done, _, said) = snowglobe(&place, &["protect", "allow", "vscode"]).await;
    assert!(done && said.contains("until it is stopped"), "{said}");
    assert!(snowglobe(&place, &make).await.0);
    assert!(place.workspace.join(".vscode/tasks.json").exists());
    let (done, shown, _) = snowglobe(&place, &["protect", "show", "--json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let rules = shown["rules"].as_array().unwrap();
    let effect = |id: &str| rules.iter().find(|one| one["rule"] == id).unwrap()["effect"].clone();
    assert!(done && shown["running"] == true);
    assert_eq!(
        (effect("vscode"), effect("zed")),
        ("allow".into(), "deny".into())
    );
    // It counts as one that was started so.
    let (done, _, said) = snowglobe(&place, &["protect", "deny", "vscode", "--save"]).await;
    assert!(done && said.contains("saved in"), "{said}");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "# mine\n\n[protect]\nvscode = \"deny\"\n"
    );
    let (done, _, said) = snowglobe(&place, &["exec", "rm -r .vscode"]).await;
    assert!(!done && said.contains("was refused"), "{said}");
    assert!(place.workspace.join(".vscode/tasks.json").exists());
    assert!(snowglobe(&place, &["stop"]).await.0);
    let (done, _, said) = snowglobe(&place, &["protect", "allow", "vscode"]).await;
    assert!(!done && said.contains("no sandbox runs"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_does_not_fill_the_disk_of_the_host() {
    let place = Place::new("minimal");
    let small = Small::mount(&place.workspace, 40 << 20);
    let session = place.serve().await;
    // By writes, by reservations, by copies: until each fails.
    let fill = "dd if=/dev/zero of=a bs=1M count=100; fallocate -l 30000000 b; for n in 1 2 3; do cp a c$n; done";
    let result = session.exec(fill).await;
    let said = result["stderr"].as_str().unwrap();
    assert!(said.contains("No space left on device"), "{result}");
    let notes = result["notes"].to_string();
    assert!(
        notes.contains("the disk of this machine is almost full"),
        "{notes}"
    );
    let left = rustix::fs::statvfs(&small.path).unwrap();
    let left = left.f_bavail * left.f_frsize;
    assert!((2 << 20..4 << 20).contains(&left), "{left} bytes are left");
    // It may always make room.
    assert_eq!(session.stdout("rm a b c*; echo x >d; cat d").await, "x\n");
    session.close().await;
}
