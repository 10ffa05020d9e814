//! Both sides change files: nothing is overwritten unseen.

use std::fs;

use super::{changes, guest, host, json_of, repository, run, works};
use crate::common::{Place, ended, on_the_host};

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_change_and_nothing_is_lost() {
    let place = repository("debian");
    guest(&place, "sed -i 's/^2$/two/' numbers; echo theirs >src/a.c; echo theirs >both; rm untracked; echo same >same").await;
    on_the_host(
        &place.workspace,
        "sed -i 's/^35$/thirty-five/' numbers; echo ours >src/a.c; echo ours >both; echo more >>untracked; echo same >same; echo ours >ours",
    );
    let all = json_of(&place, &["changes"]).await;
    assert_eq!(
        changes(&place).await,
        [
            "added both",
            "modified numbers",
            "modified src/a.c",
            "removed untracked"
        ]
    );
    for change in all["changes"].as_array().unwrap() {
        assert_eq!(change["host_changed"], true, "{change}");
    }
    let before = on_the_host(
        &place.workspace,
        "cat numbers src/a.c both untracked same ours",
    );
    let (code, out, err) = run(&place, &["apply"]).await;
    assert!(
        code == 1 && err.contains("conflict: src/a.c: both changed the same lines"),
        "{out}{err}"
    );
    assert!(
        err.contains("conflict: both: the host made another one"),
        "{err}"
    );
    assert!(
        err.contains("conflict: untracked: the host changed it, and the sandbox removed it"),
        "{err}"
    );
    assert_eq!(
        on_the_host(
            &place.workspace,
            "cat numbers src/a.c both untracked same ours"
        ),
        before
    );
    works(&place, &["apply", "--skip-conflicts"]).await;
    let numbers = host(&place, "numbers");
    assert!(
        numbers.contains("two") && numbers.contains("thirty-five"),
        "{numbers}"
    );
    assert_eq!(
        (host(&place, "src/a.c"), host(&place, "untracked")),
        ("ours\n".into(), "mine\nmore\n".into())
    );
    // The other way round: what the sandbox did not change comes in, what both changed is named, unless it is the same.
    guest(&place, "echo equal >equal").await;
    on_the_host(&place.workspace, "echo equal >equal");
    let (code, _, err) = run(&place, &["sync"]).await;
    assert!(
        code == 1 && err.contains("conflict: src/a.c: the sandbox changed it, too"),
        "{err}"
    );
    assert!(!err.contains("equal"), "{err}");
    assert_eq!(
        guest(
            &place,
            "sed -n '2p;35p' numbers; cat src/a.c both ours same"
        )
        .await,
        "two\nthirty-five\ntheirs\ntheirs\nours\nsame\n"
    );
    works(&place, &["discard", "--yes", "--all"]).await;
    works(&place, &["sync"]).await;
    let (ours, theirs) = (
        "cat numbers src/a.c both untracked same ours",
        "cat numbers src/a.c both untracked same ours",
    );
    assert_eq!(
        guest(&place, theirs).await,
        on_the_host(&place.workspace, ours)
    );
    let (_, _, err) = run(&place, &["sync"]).await;
    assert!(err.contains("has all of the host's files"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cant_be_taken_over_as_a_whole_is_left_and_modes_are_as_gits() {
    let place = repository("debian");
    guest(
        &place,
        "umask 0; echo x >open; mkdir wide; echo y >'wide/a b'; chmod 777 'wide/a b'; echo z >\"$(printf 'q\"\\377')\"; \
         mv untracked moved; rm -r src; echo file >src",
    )
    .await;
    let diff = works(&place, &["diff"]).await;
    let patched = tempfile::tempdir().unwrap();
    fs::write(patched.path().join("diff"), &diff).unwrap();
    let from = place.workspace.display();
    let applied = format!(
        "cp -r {from} copy && cd copy && git apply ../diff && cat open 'wide/a b' q* moved src && \
         test -x 'wide/a b' && test ! -e untracked"
    );
    let applied = on_the_host(patched.path(), &applied);
    assert_eq!(applied, "x\ny\nz\nmine\nfile\n", "{diff}");

    on_the_host(
        &place.workspace,
        "echo ours >moved; echo log >src/x.log; umask 022",
    );
    let (code, out, err) = run(&place, &["apply", "--flagged"]).await;
    assert!(
        code == 1
            && err.contains("conflict: moved: the host made another one")
            && err.contains("conflict: untracked: it was renamed, and its other path conflicts")
            && err.contains("conflict: src: the host has more files in that directory"),
        "{out}{err}"
    );
    assert!(!place.workspace.join("open").exists());
    works(&place, &["apply", "--flagged", "--skip-conflicts"]).await;
    assert_eq!(
        (host(&place, "untracked"), host(&place, "moved")),
        ("mine\n".into(), "ours\n".into())
    );
    assert_eq!(host(&place, "src/x.log"), "log\n");
    let modes = on_the_host(&place.workspace, "stat -c %a open wide 'wide/a b'");
    assert_eq!(modes, "644\n755\n755\n");
    works(&place, &["apply", "--undo"]).await;
    assert_eq!(host(&place, "src/a.c"), "int main;\n");
    assert!(!place.workspace.join("wide").exists());
    // What was undone is no news of the host's that would replace the guest's files.
    run(&place, &["sync"]).await;
    assert_eq!(
        guest(&place, "cat open 'wide/a b' src").await,
        "x\ny\nfile\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_as_people_have_them_come_and_go() {
    let place = Place::new("debian");
    on_the_host(
        &place.workspace,
        "git init -q -b main . && printf 'a\\r\\nb\\r\\n' >crlf && printf '* text=auto\\n' >.gitattributes && \
         mkdir inner && git -C inner init -q -b main . && echo inner >inner/file && git -C inner add file && git -C inner commit -qm inner && \
         git init -q --bare ../library && git clone -q ../library seed 2>/dev/null && (cd seed && echo lib >lib && git add lib && git commit -qm lib && git push -q origin HEAD) && rm -rf seed && \
         git -c protocol.file.allow=always submodule --quiet add ../library sub && \
         printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:0\\nsize 1\\n' >lfs && ln -s loop1 loop2 && ln -s loop2 loop1 && \
         mkdir empty deep && touch \"$(printf 'odd\\377 name\\n')\" Readme && head -c 30000000 /dev/urandom >large && echo one >file && \
         git add -A . && git commit -qm one && git checkout -q -b side && echo side >file && git commit -qam side && \
         git checkout -q main && echo main >file && git commit -qam main && git config core.autocrlf true && \
         (git rebase side >/dev/null 2>&1; true) && echo staged >staged && git add staged",
    );
    let status = "git status --short | grep -v inner | sort; git rev-parse HEAD; test -d .git/rebase-merge && git -C sub log --format=%s; readlink loop1";
    let here = on_the_host(&place.workspace, status);
    assert!(
        here.contains("UU file") && here.contains("A  staged") && here.contains("lib\n"),
        "{here}"
    );
    assert_eq!(guest(&place, status).await, here);
    let sums = "sha256sum large crlf lfs inner/file sub/lib Readme";
    assert_eq!(
        guest(&place, sums).await,
        on_the_host(&place.workspace, sums)
    );
    assert_eq!(
        changes(&place).await,
        Vec::<String>::new(),
        "a copy is no change"
    );
    guest(
        &place,
        "printf 'a\\r\\nB\\r\\n' >crlf; mv Readme README; mv odd* \"$(printf 'odd\\376')\"; echo changed >inner/file; echo changed >sub/lib; \
         head -c 1000 /dev/urandom >>large; rm loop2; chmod +x lfs; echo solved >file; mkdir -p a/b/c; echo deep >a/b/c/d",
    )
    .await;
    let all = changes(&place).await;
    let expected = [
        "renamed README",
        "added a/b/c/d",
        "modified crlf",
        "modified file",
        "modified inner/file",
        "modified large flagged",
        "mode lfs",
        "removed loop2",
        "renamed odd%FE flagged",
        "modified sub/lib",
    ];
    // An empty file is no renamed one.
    let all: Vec<_> = all
        .iter()
        .filter(|change| !change.contains("eadme") && !change.contains("odd%FF"))
        .collect();
    let all: Vec<String> = all
        .into_iter()
        .map(|change| {
            change
                .replace("added README", "renamed README")
                .replace("added odd", "renamed odd")
        })
        .collect();
    assert_eq!(all, expected);
    works(&place, &["apply", "--flagged"]).await;
    assert_eq!(
        guest(
            &place,
            "sha256sum large crlf lfs inner/file sub/lib README file a/b/c/d"
        )
        .await,
        on_the_host(
            &place.workspace,
            "sha256sum large crlf lfs inner/file sub/lib README file a/b/c/d"
        )
    );
    on_the_host(
        &place.workspace,
        "test -x lfs && test ! -L loop2 && test ! -e Readme && test -d .git/rebase-merge && test -d empty && git -C sub status --short",
    );
    assert_eq!(changes(&place).await, Vec::<String>::new());
    works(&place, &["apply", "--undo"]).await;
    assert_eq!(on_the_host(&place.workspace, status), here);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_git_ignores_is_copied_if_asked_for_and_is_no_change() {
    let place = repository("debian");
    fs::write(place.workspace.join("secret.log"), "secret").unwrap();
    fs::write(place.workspace.join("seen.log"), "seen").unwrap();
    assert_eq!(guest(&place, "ls").await, "numbers\nsrc\nuntracked\n");
    works(&place, &["stop"]).await;
    works(&place, &["rm", "--yes"]).await;
    let flags = ["exec", "--copy-ignored=true", "--hide", "secret*", "--"];
    let line = "cat target/object seen.log; ls; git status --short";
    let seen = works(&place, &[&flags[..], &[line]].concat()).await;
    assert_eq!(
        seen,
        "big\nseennumbers\nseen.log\nsrc\ntarget\nuntracked\n?? untracked\n"
    );
    guest(
        &place,
        "echo x >target/x; rm seen.log; echo bigger >target/object; echo y >y",
    )
    .await;
    assert_eq!(changes(&place).await, ["added y"]);
    // What both sides have of it is their own.
    fs::write(place.workspace.join("target/object"), "other").unwrap();
    fs::write(place.workspace.join("newer.log"), "newer").unwrap();
    works(&place, &["sync"]).await;
    works(&place, &["apply"]).await;
    assert_eq!(
        guest(&place, "cat target/object; ls").await,
        "bigger\nnumbers\nsrc\ntarget\nuntracked\ny\n"
    );
    assert_eq!(
        (host(&place, "target/object"), host(&place, "seen.log")),
        ("other".into(), "seen".into())
    );
    // A new copy over the older base has the host's newer ones.
    let flags = ["exec", "--rm", "--copy-ignored=true", "--"];
    let seen = works(
        &place,
        &[&flags[..], &["cat target/object newer.log y"]].concat(),
    )
    .await;
    assert_eq!(seen, "othernewery\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_without_git_is_copied_and_hidden_files_are_not() {
    let place = Place::new("minimal");
    fs::create_dir(place.workspace.join("d")).unwrap();
    for path in ["a", "d/b", ".env", "key.pem"] {
        fs::write(place.workspace.join(path), path).unwrap();
    }
    let config = place.configure("workspace_mode = \"copy\"\nhide = [\".env*\", \"*.pem\"]\n");
    let home = config.parent().unwrap().parent().unwrap().to_owned();
    let run = async |arguments: &[&str]| {
        let mut program = place.command(arguments);
        program.env("XDG_CONFIG_HOME", &home);
        ended(program).await
    };
    let (code, out, err) = run(&[
        "exec",
        "--",
        "ls -A . d; echo x >.env.local; echo x >new; rm a",
    ])
    .await;
    assert_eq!((code, out.as_str()), (0, ".:\na\nd\n\nd:\nb\n"), "{err}");
    let (code, _, err) = run(&["apply"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("left: .env.local: hide"), "{err}");
    assert!(place.workspace.join("new").exists() && !place.workspace.join("a").exists());
    assert!(!place.workspace.join(".env.local").exists());
    assert_eq!(
        fs::read_to_string(place.workspace.join(".env")).unwrap(),
        ".env"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_it_was_shown_is_not_applied_before_it_is_shown_again() {
    let place = repository("minimal");
    // A command starts where its caller is.
    let mut program = place.command(&["exec", "--", "pwd"]);
    program
        .env("SNOWGLOBE_WORKSPACE_MODE", "copy")
        .current_dir(place.workspace.join("src"));
    let (code, out, err) = ended(program).await;
    assert_eq!((code, out.as_str()), (0, "/workspace/src\n"), "{err}");
    guest(&place, "echo good >seen; echo good >unseen").await;
    let diff = works(&place, &["diff", "seen"]).await;
    assert!(diff.contains("+good"), "{diff}");
    guest(&place, "echo bad >seen; echo bad >unseen").await;
    let (code, _, err) = run(&place, &["apply"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(
        err.contains("left: seen: the sandbox has changed it since `diff` showed it"),
        "{err}"
    );
    // Nobody has looked at the other one.
    assert_eq!(host(&place, "unseen"), "bad\n");
    assert!(!place.workspace.join("seen").exists());
    let diff = works(&place, &["diff"]).await;
    assert!(diff.contains("+bad"), "{diff}");
    works(&place, &["apply", "seen"]).await;
    assert_eq!(host(&place, "seen"), "bad\n");
    // What was applied is forgotten, so a later change is applied unseen, too.
    guest(&place, "echo later >seen").await;
    works(&place, &["apply", "seen"]).await;
    assert_eq!(host(&place, "seen"), "later\n");
}
