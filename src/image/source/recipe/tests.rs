use std::fs::File;

use super::*;

fn recipe(script: &'static str) -> &'static Recipe {
    with_base(script, None)
}

fn with_base(script: &'static str, base: Option<&'static Recipe>) -> &'static Recipe {
    Box::leak(Box::new(Recipe {
        name: "test",
        script,
        base,
        env: &[],
    }))
}

#[tokio::test]
async fn a_recipe_reports_progress() {
    let dir = tempfile::tempdir().unwrap();
    let (progress, mut steps) = Progress::channel();
    let script = "echo 'recipe: first' >&2; echo noise >&2; cat; printf '%s' root > \"$1\"";
    let output = recipe(script).run(dir.path(), &progress).await.unwrap();
    assert_eq!(std::fs::read(output).unwrap(), b"root");
    drop(progress);
    let mut said = Vec::new();
    while let Some(step) = steps.recv().await {
        said.push(step.message);
    }
    assert!(
        said.contains(&"first".to_owned()) && !said.contains(&"noise".to_owned()),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_failure_shows_what_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let run = async |script| {
        recipe(script)
            .run(dir.path(), &Progress::none())
            .await
            .unwrap_err()
            .to_string()
    };
    let error = run("echo noise >&2; echo 'recipe: failed: apt-get install it' >&2; exit 3").await;
    assert!(
        error.ends_with("(exit status: 3): apt-get install it"),
        "{error}"
    );
    let error = run("for n in $(seq 100); do echo \"line $n\" >&2; done; exit 1").await;
    assert!(
        error.ends_with("line 99\nline 100") && !error.contains("line 88\n"),
        "{error}"
    );
    let error = run("exit 0").await;
    assert!(error.contains("`test`"), "no archive: {error}");
}

#[tokio::test]
async fn a_dropped_recipe_ends_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let (progress, mut steps) = Progress::channel();
    // A process that stayed behind would still hold the lock. One does not listen to SIGTERM.
    let hold = recipe(
        "cd \"$(dirname \"$1\")\"; exec 9> lock; flock 9; sleep 1000 & \
         (trap '' TERM; exec sleep 1000) & echo 'recipe: running' >&2; sleep 1000",
    );
    tokio::select! {
        _ = hold.run(dir.path(), &progress) => panic!("it was to run on"),
        () = async { while steps.recv().await.unwrap().message != "running" {} } => {}
    }
    let lock = dir.path().join("lock");
    let free = tokio::task::spawn_blocking(move || File::open(lock)?.lock());
    tokio::time::timeout(Duration::from_secs(120), free)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

/// Runs a recipe as it is and looks for some of what it promises.
async fn brings(name: &str, paths: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let recipe = Recipe::find(&name.parse().unwrap()).unwrap();
    let output = recipe.run(dir.path(), &Progress::none()).await.unwrap();
    let mut archive = tar::Archive::new(zstd::Decoder::new(File::open(output).unwrap()).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let path = String::from_utf8_lossy(&entry.path_bytes())
            .trim_start_matches("./")
            .to_owned();
        (path, entry.header().mode().unwrap())
    });
    let entries: std::collections::BTreeMap<String, u32> = entries.collect();
    for path in paths {
        assert!(entries.contains_key(*path), "{name} has no {path}");
    }
    // Whether it was root or not who ran this.
    let setuid = ["usr/bin/sudo", "bin/su", "usr/bin/su"]
        .iter()
        .filter_map(|path| entries.get(*path));
    assert!(name == "minimal" || setuid.clone().count() > 0);
    assert!(name == "minimal" || setuid.clone().all(|mode| mode & 0o4000 != 0));
}

#[tokio::test]
#[ignore = "fetches a package of 1 MB"]
async fn the_minimal_recipe_works() {
    brings(
        "minimal",
        &["bin/busybox", "bin/sh", "usr/bin/env", "etc/passwd", "tmp/"],
    )
    .await;
}

#[tokio::test]
#[ignore = "fetches 150 MB of packages and takes minutes"]
async fn the_debian_recipe_works() {
    let paths = [
        "usr/bin/python3",
        "usr/bin/pip3",
        "usr/bin/git",
        "usr/bin/gcc",
        "usr/bin/g++",
        "usr/bin/make",
        "usr/bin/rg",
        "usr/bin/curl",
        "usr/bin/jq",
        "etc/sudoers.d/sandbox",
        "usr/share/doc/bash/copyright",
    ];
    brings("debian", &paths).await;
}

#[tokio::test]
async fn a_recipe_finds_the_one_it_builds_on() {
    static BASE: Recipe = Recipe {
        name: "base",
        script: "printf '%s' \"$WORD\" > \"$1\"",
        base: None,
        env: &[],
    };
    let dir = tempfile::tempdir().unwrap();
    let more = with_base(
        "WORD=more; source \"$(dirname \"${BASH_SOURCE[0]}\")/../base/recipe\"",
        Some(&BASE),
    );
    let output = more.run(dir.path(), &Progress::none()).await.unwrap();
    assert_eq!(std::fs::read(output).unwrap(), b"more");
    assert_ne!(more.source(), recipe(more.script).source());
}

#[tokio::test]
#[ignore = "fetches 600 MB of packages and takes minutes"]
async fn the_dev_recipe_works() {
    brings(
        "dev",
        &[
            "usr/bin/python3",
            "usr/bin/clang",
            "usr/bin/cmake",
            "usr/bin/go",
            "usr/bin/npm",
            "usr/bin/node",
        ],
    )
    .await;
}

#[test]
fn recipes_have_good_names() {
    for recipe in Recipe::ALL {
        assert_eq!(Recipe::find(&recipe.image_name().unwrap()).unwrap(), recipe);
    }
}
