//! What the guest's root plants in the workspace does not run on the host, and ordinary work goes on.

use std::fs;

use serde_json::json;

use crate::common::{Place, Session, on_the_host};

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
