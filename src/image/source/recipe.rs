//! Recipes: scripts, part of this program, that make a root file system as a tar archive.
//!
//! A recipe is run as `bash RECIPE OUTPUT`. It works as root and as an ordinary user, writes `OUTPUT` (tar,
//! compressed with zstd), and says on standard error what it does: lines that begin with `recipe: ` are for the
//! person who waits, the others for whoever looks into a failure. When whoever started it goes away, however that
//! happens, its standard input ends, and it and all it started are terminated.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::image::content::RunConfig;
use crate::image::error::io_error;
use crate::image::{ImageError, ImageName, Source};
use crate::progress::{Progress, Step};

/// One recipe.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Its name, and the name of the image it makes.
    pub name: &'static str,
    /// A line about it, for a person.
    pub about: &'static str,
    script: &'static str,
    /// The recipe it builds on, which it finds beside itself.
    base: Option<&'static Self>,
    env: &'static [(&'static str, &'static str)],
}

/// Ends the recipe's whole process group when standard input ends. `kill 0` reaches this shell, too.
const WATCH: &str = r#"
exec 3<&0
(trap '' TERM; cat <&3 >/dev/null 2>&1; kill -TERM 0) 2>/dev/null &
watcher=$!
# Else this shell may say that it was killed, after the recipe's own last words.
disown $watcher
bash "$@" </dev/null 3<&-
status=$?
kill -KILL $watcher
exit $status
"#;

/// How many of its last lines a failure shows.
const LOG_LINES: usize = 12;

const PATH: (&str, &str) = (
    "PATH",
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
);

const DEBIAN_ENV: &[(&str, &str)] = &[
    PATH,
    ("LANG", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
];

const DEBIAN: Recipe = Recipe {
    name: "debian",
    about: "Debian with python, git, a C compiler and everyday tools",
    script: include_str!("../../../images/debian/recipe"),
    base: None,
    env: DEBIAN_ENV,
};

impl Recipe {
    /// Every recipe there is.
    pub const ALL: &[Self] = &[
        DEBIAN,
        Self {
            name: "minimal",
            about: "busybox alone, a few megabytes",
            script: include_str!("../../../images/minimal/recipe"),
            base: None,
            env: &[PATH],
        },
        Self {
            name: "dev",
            about: "the Debian one with C++, Go, node and build tools",
            script: include_str!("../../../images/dev/recipe"),
            base: Some(&DEBIAN),
            env: DEBIAN_ENV,
        },
    ];

    /// The recipe that makes the image of that name.
    pub fn find(name: &ImageName) -> Result<&'static Self, ImageError> {
        let found = Self::ALL.iter().find(|recipe| recipe.name == name.as_str());
        found.ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|recipe| recipe.name).collect();
            ImageError::NoRecipe {
                name: name.clone(),
                known: known.join(", "),
            }
        })
    }

    pub(crate) fn image_name(&self) -> Result<ImageName, ImageError> {
        self.name.parse()
    }

    pub(crate) fn run_config(&self) -> RunConfig {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        RunConfig {
            env: self.env.iter().map(pair).collect(),
            ..RunConfig::default()
        }
    }

    pub(crate) fn source(&self) -> Source {
        let base = self.base.map_or("", |base| base.script);
        let digest = format!(
            "sha256:{}",
            hex::encode(Sha256::digest([base, self.script].concat()))
        );
        Source::Recipe {
            recipe: self.name.to_owned(),
            digest,
        }
    }

    /// Puts it down as in the repository: recipes are each other's neighbours.
    fn lay_out(&self, dir: &Path) -> Result<PathBuf, ImageError> {
        let script = dir.join(self.name).join("recipe");
        let written = std::fs::create_dir_all(dir.join(self.name))
            .and_then(|()| std::fs::write(&script, self.script));
        written.map_err(io_error("write", &script))?;
        Ok(script)
    }

    /// Runs it in `dir`; gives the archive it made there. Dropping the future ends it.
    pub(crate) async fn run(&self, dir: &Path, progress: &Progress) -> Result<PathBuf, ImageError> {
        let (script, output) = (self.lay_out(dir)?, dir.join("root.tar.zst"));
        if let Some(base) = self.base {
            base.lay_out(dir)?;
        }
        let mut child = Command::new("bash")
            .args(["-c", WATCH, "recipe"])
            .args([&script, &output])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(io_error("start", Path::new("bash")))?;
        // `wait` would close it, and so end the recipe.
        let stdin = child.stdin.take();
        let mut log = VecDeque::new();
        if let Some(stderr) = child.stderr.take() {
            let mut lines = BufReader::new(stderr).split(b'\n');
            let mut message = format!("running the recipe `{}`", self.name);
            let mut tick = tokio::time::interval(Duration::from_millis(500));
            loop {
                tokio::select! {
                    line = lines.next_segment() => {
                        let Ok(Some(line)) = line else { break };
                        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                        if let Some(said) = line.strip_prefix("recipe: ") {
                            said.clone_into(&mut message);
                            progress.say(said);
                        }
                        tracing::debug!(recipe = self.name, "{line}");
                        log.push_back(line);
                        if log.len() > LOG_LINES {
                            log.pop_front();
                        }
                    }
                    _ = tick.tick() => {
                        if let Some(done) = output.metadata().ok().map(|meta| meta.len()).filter(|done| *done > 0) {
                            progress.step(Step { message: message.clone(), done: Some(done), total: None, part: None });
                        }
                    }
                }
            }
        }
        let status = child
            .wait()
            .await
            .map_err(io_error("wait for", Path::new("bash")))?;
        drop(stdin);
        if status.success() && output.is_file() {
            return Ok(output);
        }
        // What it says itself about its failure is better than whatever else was said.
        let own: Vec<String> = log
            .iter()
            .filter_map(|line| line.strip_prefix("recipe: failed: ").map(str::to_owned))
            .collect();
        let log = if own.is_empty() { log.into() } else { own };
        Err(ImageError::Recipe {
            name: self.image_name()?,
            status,
            log,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn recipe(script: &'static str) -> Recipe {
        Recipe {
            name: "test",
            about: "",
            script,
            base: None,
            env: &[],
        }
    }

    #[tokio::test]
    async fn a_recipe_tells_how_it_goes() {
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
        let error =
            run("echo noise >&2; echo 'recipe: failed: apt-get install it' >&2; exit 3").await;
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
        // Whoever runs holds the lock; a child that was left behind would hold it on.
        let hold = recipe(
            "cd \"$(dirname \"$1\")\"; exec 9> lock; flock 9; sleep 1000 & \
             echo 'recipe: running' >&2; sleep 1000",
        );
        tokio::select! {
            _ = hold.run(dir.path(), &progress) => panic!("it was to run on"),
            () = async { while steps.recv().await.unwrap().message != "running" {} } => {}
        }
        let lock = dir.path().join("lock");
        let free = tokio::task::spawn_blocking(move || File::open(lock)?.lock());
        tokio::time::timeout(Duration::from_secs(20), free)
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
        let mut archive =
            tar::Archive::new(zstd::Decoder::new(File::open(output).unwrap()).unwrap());
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
            about: "",
            script: "printf '%s' \"$WORD\" > \"$1\"",
            base: None,
            env: &[],
        };
        let dir = tempfile::tempdir().unwrap();
        let mut more =
            recipe("WORD=more; source \"$(dirname \"${BASH_SOURCE[0]}\")/../base/recipe\"");
        more.base = Some(&BASE);
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
}
