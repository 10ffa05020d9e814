//! `snowglobe completions` and `snowglobe man`: scripts for shells, manual pages.
//!
//! A shell's script calls this program for each completion (`COMPLETE=bash snowglobe -- …`), so what it offers is what
//! is there: images, snapshots, sandboxes, recipes. Nothing hidden is offered, and nothing is made or asked of the network.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, Args, Command};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::Shells;

use super::{Done, flags};
use crate::config::{Config, Raw, Sources};
use crate::disk::Store;
use crate::image::{ImageStore, Recipe};
use crate::shown::{self, Stream};

/// The environment variable that a shell's completion script sets to ask for completions.
const ASKED: &str = "COMPLETE";

/// Print a completion script for your shell.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Which shell
    shell: clap_complete::Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Done {
        let name = self.shell.to_string();
        let shells = Shells::builtins();
        let shell = shells
            .completer(&name)
            .ok_or_else(|| anyhow::anyhow!("write a completion script: {name} is not known"))?;
        let mut script = Vec::new();
        shell.write_registration(ASKED, "snowglobe", "snowglobe", "snowglobe", &mut script)?;
        shown::raw(Stream::Output, &script)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Write the manual pages into a directory.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The directory, such as /usr/local/share/man/man1
    directory: PathBuf,
}

impl Man {
    pub(super) fn run(&self) -> Done {
        std::fs::create_dir_all(&self.directory)?;
        clap_mangen::generate_to(offered(), &self.directory)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Answers a shell that asks for completions; says whether one did.
pub(super) fn answered() -> anyhow::Result<bool> {
    let dir = std::env::current_dir().ok();
    let environment = CompleteEnv::with_factory(offered).var(ASKED);
    Ok(environment.try_complete(std::env::args_os(), dir.as_deref())?)
}

/// What a person is offered.
fn offered() -> Command {
    let mut command = flags::command();
    command.build();
    visible(&command, "")
}

/// The command without what is hidden, and with what its values may be. `above` is its parent's name.
fn visible(command: &Command, above: &str) -> Command {
    let name = command.get_name().to_owned();
    // It is built already: each subcommand has what it inherits, and what is made for every command is made again.
    let own = ["help", "version"];
    let arguments = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && !own.contains(&argument.get_id().as_str()))
        .map(|argument| with_candidates(argument.clone().global(false), above, &name));
    let subcommands = command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set() && subcommand.get_name() != "help")
        .map(|subcommand| visible(subcommand, &name));
    let mut shown = Command::new(name.clone())
        .args(arguments)
        .subcommands(subcommands)
        .subcommand_required(command.is_subcommand_required_set())
        .aliases(command.get_all_aliases().map(str::to_owned));
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(about) = command.get_long_about() {
        shown = shown.long_about(about.clone());
    }
    match command.get_version() {
        Some(version) => shown.version(version.to_owned()).propagate_version(true),
        None => shown,
    }
}

fn with_candidates(argument: Arg, above: &str, command: &str) -> Arg {
    let names: fn() -> Vec<String> = match (above, command, argument.get_id().as_str()) {
        ("image", "build", "recipe") => recipes,
        (_, _, "setting_image") | ("image", _, "image" | "images" | "references") => images,
        (_, _, "setting_snapshot") | ("snapshot", "restore" | "delete", "name" | "names") => {
            snapshots
        }
        ("network", "explain", "preset") | ("network", "allow" | "deny", "rules") => presets,
        (_, _, "setting_allow" | "setting_deny") => presets,
        (_, _, "setting_name") | (_, "rm", "names") => sandboxes,
        _ => return argument,
    };
    argument.add(ArgValueCandidates::new(move || {
        let names = names();
        names.into_iter().map(CompletionCandidate::new).collect()
    }))
}

fn recipes() -> Vec<String> {
    let names = Recipe::ALL.iter().map(|recipe| recipe.name.to_owned());
    names.collect()
}

fn presets() -> Vec<String> {
    crate::network::presets::names()
}

/// The configuration of this directory. A completion has no place for an error.
fn config() -> Option<Config> {
    Config::load(Sources::of_process(Raw::default()).ok()?).ok()
}

fn images() -> Vec<String> {
    let listed = || {
        let store = ImageStore::look(&config()?.host.dirs.data);
        store.known().ok()
    };
    let keys = listed().unwrap_or_default();
    keys.iter().map(|key| key.as_str().to_owned()).collect()
}

fn snapshots() -> Vec<String> {
    let listed = || {
        let config = config()?;
        let store = Store::look(&config.host.dirs.data, &config.sandbox.name);
        store.list().ok()
    };
    let records = listed().unwrap_or_default();
    records
        .iter()
        .map(|record| record.name.as_str().to_owned())
        .collect()
}

fn sandboxes() -> Vec<String> {
    let listed = || {
        let data = config()?.host.dirs.data.join("sandboxes");
        let entries = std::fs::read_dir(data).ok()?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // Others belong to sessions of a server.
        let names = names.filter(|name| name.parse::<crate::names::SandboxName>().is_ok());
        Some(names.collect::<Vec<_>>())
    };
    let mut names = listed().unwrap_or_default();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn completed(line: &str) -> Vec<String> {
        let mut command = offered();
        let words: Vec<_> = line.split(' ').map(Into::into).collect();
        let last = words.len() - 1;
        let found = clap_complete::engine::complete(&mut command, words, last, None).unwrap();
        let text = |value: &OsStr| value.to_string_lossy().into_owned();
        found.iter().map(|one| text(one.get_value())).collect()
    }

    #[test]
    fn what_is_offered_means_something_and_is_not_hidden() {
        let subcommands = completed("snowglobe ");
        for name in ["exec", "shell", "image", "snapshot", "doctor"] {
            assert!(subcommands.iter().any(|it| it == name), "{subcommands:?}");
        }
        for hidden in [
            "snowglobe ssh-p",
            "snowglobe ma",
            "snowglobe image ls --cpu",
        ] {
            assert_eq!(completed(hidden), Vec::<String>::new(), "{hidden}");
        }
        assert_eq!(completed("snowglobe exec --cpu"), ["--cpus"]);
        assert_eq!(completed("snowglobe network allow pack"), ["packages"]);
        assert_eq!(completed("snowglobe exec --allow gitl"), ["gitlab"]);
        assert_eq!(completed("snowglobe network explain mod"), ["models"]);
        let build = completed("snowglobe image build --");
        assert!(!build.contains(&"--workspace".to_owned()), "{build:?}");
        assert!(completed("snowglobe image build ").contains(&"debian".to_owned()));
        assert!(completed("snowglobe snapshot --work").contains(&"--workspace".to_owned()));
        assert!(completed("snowglobe snapshot list --work").contains(&"--workspace".to_owned()));
    }

    #[test]
    fn every_visible_subcommand_has_a_manual_page() {
        let dir = tempfile::tempdir().unwrap();
        let man = Man {
            directory: dir.path().join("man1"),
        };
        man.run().unwrap();
        let page = |name: &str| std::fs::read_to_string(dir.path().join("man1").join(name));
        assert!(page("snowglobe.1").unwrap().contains("snowglobe\\-exec(1)"));
        assert!(page("snowglobe-exec.1").unwrap().contains("\\-\\-timeout"));
        assert!(page("snowglobe-snapshot-save.1").is_ok());
        assert!(page("snowglobe-ssh-proxy.1").is_err());
    }
}
