//! Recipes: scripts in this program that make a root file system as a tar archive.
//!
//! A recipe is run as `bash RECIPE OUTPUT`, by root or an ordinary user. It writes `OUTPUT`, a tar archive compressed
//! with zstd. On standard error, lines that begin with `recipe: ` are shown as progress; the other lines are only shown
//! if it fails. When this process ends, however that happens, the standard input of the recipe ends, and the recipe is
//! terminated with all processes it started.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, Command};

use crate::blocking::blocking;
use crate::image::content::RunConfig;
use crate::image::digest::Digest;
use crate::image::file_error::{FileError, file_error};
use crate::image::name::{ImageName, NameError};
use crate::image::store::record::Source;
use crate::progress::{Progress, Step};
use crate::text::did_you_mean;

/// Why a recipe made no archive.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The system's error.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no such recipe.
    #[error(
        "find a recipe for `{name}`: {}there are {known}; any other image is imported: `snowglobe image import`",
        did_you_mean(.name.as_str(), .known.split(", "))
    )]
    Unknown {
        /// The name.
        name: ImageName,
        /// The names of all recipes.
        known: String,
    },
    /// The recipe failed.
    #[error("build `{name}` by its recipe ({status}){}", last_lines(.log))]
    Failed {
        /// The recipe.
        name: &'static str,
        /// Its exit status.
        status: ExitStatus,
        /// Its explanation, or the last lines of its standard error.
        log: Vec<String>,
    },
}

/// A recipe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// The name of the recipe and of its image.
    pub(crate) name: &'static str,
    script: &'static str,
    /// The recipe that this one sources, by a path relative to its own.
    base: Option<&'static Self>,
    /// The environment of the image's commands.
    env: &'static [(&'static str, &'static str)],
}

/// Runs a recipe, and ends its whole process group when standard input ends.
///
/// A recipe has ten seconds to tidy up, then all that is left is killed: a shell that is about to start a program does
/// not pass SIGTERM on to it.
///
/// This shell reports on standard error that its watcher was killed, at a moment that depends on the scheduler. So it
/// gives up standard error first: the last lines are always the recipe's own. `kill 0` reaches this shell, too.
const WATCH: &str = r#"
exec 3<&0
(trap '' TERM; cat <&3 >/dev/null 2>&1; kill -TERM 0; sleep 10; kill -KILL 0) 2>/dev/null &
watcher=$!
bash "$@" </dev/null 3<&-
status=$?
exec 2>/dev/null
kill -KILL $watcher
exit $status
"#;

/// The number of last lines that a failure shows.
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
    script: include_str!("../../../images/debian/recipe"),
    base: None,
    env: DEBIAN_ENV,
};

impl Recipe {
    /// All recipes: busybox alone; Debian with python, git and a C compiler; and that with C++, Go, node and more.
    pub(crate) const ALL: &[Self] = &[
        DEBIAN,
        Self {
            name: "minimal",
            script: include_str!("../../../images/minimal/recipe"),
            base: None,
            env: &[PATH],
        },
        Self {
            name: "dev",
            script: include_str!("../../../images/dev/recipe"),
            base: Some(&DEBIAN),
            env: DEBIAN_ENV,
        },
    ];

    /// The recipe of this name.
    pub(crate) fn find(name: &ImageName) -> Result<&'static Self, RecipeError> {
        let found = Self::ALL.iter().find(|recipe| recipe.name == name.as_str());
        found.ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|recipe| recipe.name).collect();
            RecipeError::Unknown {
                name: name.clone(),
                known: known.join(", "),
            }
        })
    }

    /// The name of its image.
    pub(crate) fn image_name(&self) -> Result<ImageName, NameError> {
        self.name.parse()
    }

    /// How to run its image.
    pub(crate) fn run_config(&self) -> RunConfig {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        RunConfig {
            env: self.env.iter().map(pair).collect(),
            ..RunConfig::default()
        }
    }

    /// The source in the record of its image. It changes with the text of the recipe.
    pub(crate) fn source(&self) -> Source {
        let base = self.base.map_or("", |base| base.script);
        let digest = Digest::of([base, self.script].concat().as_bytes());
        Source::Recipe {
            recipe: self.name.to_owned(),
            digest,
        }
    }

    /// Writes the recipe and its base as they lie in the repository: `dir/NAME/recipe`. Returns the path of the recipe.
    async fn write_scripts(&'static self, dir: &Path) -> Result<PathBuf, FileError> {
        let dir = dir.to_owned();
        blocking(move || {
            for recipe in self.base.into_iter().chain([self]) {
                let script = recipe.script_path(&dir);
                let written = std::fs::create_dir_all(dir.join(recipe.name))
                    .and_then(|()| std::fs::write(&script, recipe.script));
                written.map_err(file_error("write", &script))?;
            }
            Ok(self.script_path(&dir))
        })
        .await
    }

    fn script_path(&self, dir: &Path) -> PathBuf {
        dir.join(self.name).join("recipe")
    }

    /// Runs the recipe in `dir`. Returns the archive that it made there. Dropping the future ends the recipe.
    pub(crate) async fn run(
        &'static self,
        dir: &Path,
        progress: &Progress,
    ) -> Result<PathBuf, RecipeError> {
        let output = dir.join("root.tar.zst");
        let script = self.write_scripts(dir).await?;
        let mut child = Command::new("bash")
            .args(["-c", WATCH, "recipe"])
            .args([&script, &output])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(file_error("start", Path::new("bash")))?;
        // Taken, since `wait` would close it, and that would end the recipe.
        let stdin = child.stdin.take();
        let log = match child.stderr.take() {
            Some(stderr) => self.follow(stderr, &output, progress).await,
            None => Vec::new(),
        };
        let status = child
            .wait()
            .await
            .map_err(file_error("wait for", Path::new("bash")))?;
        drop(stdin);
        let made = tokio::fs::metadata(&output).await;
        if status.success() && made.is_ok_and(|meta| meta.is_file()) {
            return Ok(output);
        }
        // The recipe's own explanation is better than its last lines.
        let own: Vec<String> = log
            .iter()
            .filter_map(|line| line.strip_prefix("recipe: failed: ").map(str::to_owned))
            .collect();
        let log = if own.is_empty() { log } else { own };
        Err(RecipeError::Failed {
            name: self.name,
            status,
            log,
        })
    }

    /// Reports progress until standard error ends. Returns its last lines.
    async fn follow(&self, stderr: ChildStderr, output: &Path, progress: &Progress) -> Vec<String> {
        let mut log = VecDeque::new();
        let mut lines = BufReader::new(stderr).split(b'\n');
        let mut message = format!("running the recipe `{}`", self.name);
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                line = lines.next_segment() => {
                    let Ok(Some(line)) = line else { break };
                    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if let Some(text) = line.strip_prefix("recipe: ") {
                        text.clone_into(&mut message);
                        progress.say(text);
                    }
                    tracing::debug!(recipe = self.name, "{line}");
                    log.push_back(line);
                    if log.len() > LOG_LINES {
                        log.pop_front();
                    }
                }
                _ = tick.tick() => {
                    let done = tokio::fs::metadata(output).await.map_or(0, |meta| meta.len());
                    if done > 0 {
                        progress.step(Step { message: message.clone(), done: Some(done), total: None, part: None });
                    }
                }
            }
        }
        log.into()
    }
}

fn last_lines(log: &[String]) -> String {
    if log.is_empty() {
        String::new()
    } else {
        format!(": {}", log.join("\n"))
    }
}

#[cfg(test)]
mod tests;
