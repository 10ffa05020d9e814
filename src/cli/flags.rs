//! Which of the configuration's flags mean something to which subcommand.
//!
//! Every subcommand that has a [`Raw`] knows all its flags. Those that mean nothing to it are hidden, and refused: a flag
//! is never dropped without a word. The flags that say which sandbox is meant are understood before and after a
//! subcommand and its action.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, CommandFactory, FromArgMatches};

use super::Cli;
use crate::config::Raw;

/// What the ids of the configuration's flags begin with; the rest is the key.
const SETTING: &str = "setting_";

/// The flags that say which sandbox is meant, and where its data is.
const WHICH: &[&str] = &["workspace", "name", "data_dir"];

/// The flags that are understood before a subcommand, too.
const ANYWHERE: &[&str] = &["workspace", "name"];

/// What starting the machine that unpacks an image needs.
const UNPACKS: &[&str] = &[
    "data_dir",
    "image_store_gib",
    "engine",
    "accel",
    "isolation",
    "qemu",
    "boot_timeout_s",
];

const DOCTOR: &[&str] = &["data_dir", "image", "engine", "accel", "isolation", "qemu"];

/// The headings of the help, and their flags.
const HEADINGS: &[(&str, &[&str])] = &[
    ("Which sandbox", &["workspace", "name", "snapshot"]),
    (
        "Its machine",
        &[
            "image",
            "cpus",
            "memory_mib",
            "disk_gib",
            "nofile",
            "workspace_mode",
            "copy_ignored",
            "workspace_read_only",
            "hide",
            "env",
            "git_identity",
        ],
    ),
    ("Its network", &["network", "allow", "deny"]),
    (
        "How it runs",
        &[
            "engine",
            "accel",
            "isolation",
            "qemu",
            "boot_timeout_s",
            "exec_timeout_s",
            "background_after_s",
            "idle_stop_s",
            "confirm",
            "confirm_apply",
        ],
    ),
    (
        "Where data is",
        &["data_dir", "image_store_gib", "snapshot_gib"],
    ),
];

/// Whether a flag of the configuration means something to a subcommand, or to an action of it. A subcommand that is not
/// listed starts a sandbox, which all flags describe.
fn means(subcommand: &str, action: Option<&str>, flag: &str) -> bool {
    let flags = match (subcommand, action) {
        ("image", Some("pull" | "import" | "build")) => UNPACKS,
        ("image", Some(_)) => &["data_dir"],
        // The flags of any action may stand before it.
        ("image", None) => UNPACKS,
        ("snapshot" | "stop" | "network" | "status" | "logs" | "rm", _) => WHICH,
        ("doctor", _) => DOCTOR,
        ("allow" | "data" | "prune", _) => &["data_dir"],
        ("completions" | "man" | "keep" | "ls" | "help", _) => &[],
        _ => return true,
    };
    flags.contains(&flag)
}

/// The flags of the configuration.
fn settings() -> Vec<Arg> {
    let all = Raw::augment_args(Command::new("settings"));
    all.get_arguments().cloned().map(under_heading).collect()
}

/// The key of a flag of the configuration.
fn key(argument: &Arg) -> &str {
    let id = argument.get_id().as_str();
    id.strip_prefix(SETTING).unwrap_or(id)
}

fn under_heading(argument: Arg) -> Arg {
    let flag = key(&argument);
    let heading = HEADINGS.iter().find(|(_, flags)| flags.contains(&flag));
    match heading {
        Some((heading, _)) => argument.help_heading(*heading),
        None => argument,
    }
}

fn has(command: &Command, setting: &Arg) -> bool {
    command
        .get_arguments()
        .any(|known| known.get_id() == setting.get_id())
}

/// The command line, with each flag where it means something.
pub fn command() -> Command {
    let settings = settings();
    let anywhere = |argument: &&Arg| ANYWHERE.contains(&key(argument));
    let anywhere = settings.iter().filter(anywhere).cloned();
    let mut command = Cli::command().args(anywhere.map(|argument| argument.global(true)));
    let names: Vec<String> = command
        .get_subcommands()
        .map(|subcommand| subcommand.get_name().to_owned())
        .collect();
    for name in names {
        command = command.mut_subcommand(&name, |subcommand| fitted(subcommand, &name, &settings));
    }
    command
}

/// A subcommand that shows the flags that mean something to it.
fn fitted(mut subcommand: Command, name: &str, settings: &[Arg]) -> Command {
    let acts = subcommand.has_subcommands();
    for setting in settings {
        let flag = key(setting);
        let known = has(&subcommand, setting);
        let shown = means(name, None, flag);
        if known {
            subcommand = subcommand.mut_arg(setting.get_id(), |argument| {
                let argument = under_heading(argument).global(acts && shown);
                if shown { argument } else { argument.hide(true) }
            });
        } else if ANYWHERE.contains(&flag) {
            // Otherwise the one that stands before all subcommands would be inherited.
            subcommand = subcommand.arg(setting.clone().hide(true));
        }
    }
    let actions: Vec<String> = subcommand
        .get_subcommands()
        .map(|action| action.get_name().to_owned())
        .collect();
    for action in actions {
        let meaningless = settings.iter().filter(|setting| {
            let flag = key(setting);
            (means(name, None, flag) || ANYWHERE.contains(&flag))
                && !means(name, Some(&action), flag)
        });
        subcommand = subcommand.mut_subcommand(&action, |command| {
            meaningless.fold(command, |command, setting| {
                command.arg(setting.clone().hide(true))
            })
        });
    }
    subcommand
}

/// The command line that these arguments are.
pub(super) fn parse(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    refuse_meaningless(&mut command, &matches)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.with_cmd(&command))
}

/// Refuses a flag that means nothing to the subcommand.
fn refuse_meaningless(command: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((name, given)) = matches.subcommand() else {
        return Ok(());
    };
    let action = given.subcommand();
    let levels = [Some(given), action.map(|(_, given)| given)];
    let action = action.map(|(action, _)| action);
    for setting in settings() {
        let (flag, id) = (key(&setting), setting.get_id());
        let is_given = levels.iter().flatten().any(|level| {
            level.ids().any(|known| known == id)
                && level.value_source(id.as_str()) == Some(ValueSource::CommandLine)
        });
        if is_given && !means(name, action, flag) {
            let long = setting.get_long().unwrap_or(flag);
            let whole = [name, action.unwrap_or_default()].join(" ");
            let whole = whole.trim_end();
            return Err(command.error(
                ErrorKind::ArgumentConflict,
                format!("--{long} means nothing to `snowglobe {whole}`; leave it out"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<String, String> {
        let words = ["snowglobe"].into_iter().chain(line.split_whitespace());
        match parse(words) {
            Ok(cli) => Ok(format!("{cli:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_sandbox_is_named_before_and_after_a_subcommand() {
        for line in [
            "--name n1 --workspace /w1 exec true",
            "exec --name n1 --workspace /w1 true",
            "--name n1 exec --workspace /w1 true",
            "--workspace /w1 exec --name n1 -- true",
            "--name n1 --workspace /w1 snapshot list",
            "snapshot --name n1 --workspace /w1 list",
            "snapshot list --name n1 --workspace /w1",
            "--name n1 snapshot --workspace /w1 save a",
            "--name n0 snapshot delete a --name n1 --workspace /w1",
            "--name n1 --workspace /w1 ssh-config",
            "shell --name n1 --workspace /w1",
        ] {
            let cli = parsed(line).unwrap();
            assert!(
                cli.contains("name: Some(\"n1\")") && cli.contains("workspace: Some(\"/w1\")"),
                "{line}: {cli}"
            );
        }
    }

    #[test]
    fn a_flag_without_meaning_is_refused_and_not_shown() {
        for line in [
            "image ls --cpus 2",
            "image --cpus 2 ls",
            "image ls --engine qemu",
            "image --engine qemu ls",
            "snapshot list --memory-mib 512",
            "snapshot --image x list",
            "--name a image ls",
            "--workspace /a completions bash",
            "doctor --snapshot a",
            "ls --image x",
            "rm --cpus 1",
        ] {
            let error = parsed(line).unwrap_err();
            // An action has no flags but those that its subcommand shares with it.
            let refused = ["means nothing to", "unexpected argument"];
            assert!(
                refused.iter().any(|it| error.contains(it)),
                "{line}: {error}"
            );
        }
        for line in [
            "image pull x --engine qemu --data-dir /d",
            "image --data-dir /d ls",
            "image import a b",
            "image inspect a",
            "image push a b",
            "snapshot save a",
            "ssh-config --cpus 1",
            "doctor --image x",
            "serve --confirm ask",
            "exec --memory-mib 2G --exec-timeout-s 1m30s true",
        ] {
            parsed(line).unwrap();
        }
    }

    fn all(command: &Command, path: &str, seen: &mut Vec<(String, Command)>) {
        let path = format!("{path} {}", command.get_name());
        seen.push((path.clone(), command.clone()));
        for subcommand in command.get_subcommands() {
            all(subcommand, &path, seen);
        }
    }

    #[test]
    fn every_help_fits_and_shows_what_means_something() {
        let mut command = command();
        command.build();
        let mut seen = Vec::new();
        all(&command, "", &mut seen);
        assert!(seen.len() > 15);
        for (path, mut command) in seen {
            for help in [command.render_help(), command.render_long_help()] {
                let help = help.to_string();
                for line in help.lines() {
                    assert!(line.chars().count() <= 80, "{path}: {line}");
                }
            }
            let help = command.render_help().to_string();
            let words: Vec<&str> = path.split_whitespace().skip(1).collect();
            if let [name, rest @ ..] = &words[..]
                && *name != "help"
            {
                for setting in settings() {
                    let flag = key(&setting);
                    if !means(name, rest.first().copied(), flag) {
                        let long = format!("--{} ", setting.get_long().unwrap());
                        assert!(!help.contains(&long), "{path} shows {long}\n{help}");
                    }
                }
            }
        }
    }

    /// The subcommands that give no result of their own, but a command's output, a protocol or a file.
    const WITHOUT_RESULT: &[&str] = &[
        "diff",
        "serve",
        "exec",
        "shell",
        "ssh-config",
        "ssh-proxy",
        "keep",
        "completions",
        "man",
        "help",
    ];

    #[test]
    fn every_result_is_to_be_had_as_json() {
        let mut command = command();
        command.build();
        let mut seen = Vec::new();
        all(&command, "", &mut seen);
        for (path, command) in seen {
            let words: Vec<&str> = path.split_whitespace().skip(1).collect();
            let none = words.iter().any(|word| WITHOUT_RESULT.contains(word));
            if none || words.is_empty() {
                continue;
            }
            let json = |argument: &Arg| argument.get_long() == Some("json");
            assert!(command.get_arguments().any(json), "{path}");
        }
        for line in [
            "image --json inspect a",
            "image rm a b --json",
            "snapshot --json list",
        ] {
            parsed(line).unwrap();
        }
    }

    #[test]
    fn every_setting_has_a_heading() {
        for setting in settings() {
            let heading = setting.get_help_heading();
            assert!(heading.is_some(), "{}", setting.get_id());
        }
    }

    #[test]
    fn a_wrong_value_says_what_was_expected() {
        for (line, expected) in [
            ("exec --cpus 0 true", "expected 1 to 64"),
            ("exec --cpus many true", "expected a whole number"),
            ("exec --memory-mib 64 true", "expected 128 to"),
            ("exec --memory-mib 2X true", "expected a size"),
            ("exec --disk-gib 1.5G true", "a whole number of GiB"),
            ("exec --exec-timeout-s soon true", "expected a time"),
            ("exec --timeout -1 true", "expected a time"),
            ("exec --env A true", "expected NAME=VALUE"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
