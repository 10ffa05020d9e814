//! The command line: one file per subcommand. Arguments are syntax here; each subcommand works with a resolved [`Config`].

/// Prints a message with the program's name to standard error.
macro_rules! say {
    ($($what:tt)*) => { crate::shown::say(format_args!($($what)*)) };
}

mod agent;
mod allow;
mod attach;
mod completions;
mod config;
mod confirm;
mod data;
mod doctor;
mod ending;
mod exec;
mod flags;
mod follow;
mod image;
mod json;
mod keep;
mod log;
mod logs;
mod ls;
mod network;
mod port;
mod progress;
mod protect;
mod prune;
mod refused;
mod review;
mod rm;
mod serve;
mod session;
mod shell;
mod signals;
mod snapshot;
mod ssh;
mod start;
mod stock;
mod stop;
mod terminal;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, Raw, Sources};
use crate::shown::{self, Stream, Volume};
pub use ending::{ending, show};
pub use flags::command;

/// A computer of its own for a coding agent: an MCP server whose tools act inside a microVM.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, max_term_width = 80)]
pub struct Cli {
    /// Say more: each step, and what is logged; twice: also what a boot does
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors and what was asked for
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Work on this project with a model: the terminal agent
    Agent(agent::Agent),
    /// Serve MCP on standard input and output (what an editor starts), or over HTTP
    Serve(serve::Serve),
    /// Run one command in the sandbox and exit with its exit status
    Exec(exec::Exec),
    /// Open an interactive shell in the sandbox
    Shell(shell::Shell),
    /// Start this project's sandbox
    Start(start::Start),
    /// Stop sandboxes
    Stop(stop::Stop),
    /// List the sandboxes that run
    Ls(ls::Ls),
    /// Show this project's sandbox
    Status(ls::ShowStatus),
    /// Show the log of this project's sandbox, or its console
    Logs(logs::Logs),
    Log(log::Log),
    /// Show the effective configuration
    Config(config::ShowConfig),
    /// Show what lies on the disk, for which directory, and how to have the room back
    Data(data::Data),
    /// Remove a sandbox's data: snapshots, layers, logs, SSH hosts
    Rm(rm::Rm),
    /// Remove what nothing needs: data of directories that are gone, unused parts of images, old logs
    Prune(prune::Prune),
    /// Import, build, list and remove images
    Image(image::Image),
    /// Save, list, restore and delete snapshots
    Snapshot(snapshot::Snapshot),
    /// Allow what this project's snowglobe.toml asks for
    Allow(allow::Allow),
    /// Show and change what the sandbox reaches of the network
    Network(network::Network),
    Port(port::Port),
    /// Show and change which files of the workspace are protected
    Protect(protect::Protect),
    Changes(review::ShowChanges),
    Diff(review::Diff),
    Apply(review::Apply),
    Discard(review::Discard),
    Sync(review::Sync),
    /// Check what works on this host, and print a remedy for each problem
    Doctor(doctor::Doctor),
    /// Print or install hosts for your own ssh, scp, sftp and editors
    SshConfig(ssh::SshConfig),
    /// Carry one SSH connection to this project's sandbox (used by `ssh-config`)
    #[command(hide = true)]
    SshProxy(ssh::Proxy),
    /// Keep a sandbox for other programs of this user (what other subcommands start)
    #[command(hide = true)]
    Keep(keep::Keep),
    /// Print a completion script for your shell
    Completions(completions::Completions),
    /// Write the manual pages into a directory (used by `make install`)
    #[command(hide = true)]
    Man(completions::Man),
}

/// The exit status where Snowglobe itself failed.
const OURS: u8 = 125;

/// The result of a subcommand: an exit code of its own, or an error that main prints.
type Done = anyhow::Result<ExitCode>;

/// Parses the arguments and runs the subcommand.
pub fn run() -> Done {
    if completions::answered()? {
        return Ok(ExitCode::SUCCESS);
    }
    let cli = match flags::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return asked_or_misused(&error),
    };
    shown::set_volume(match (cli.quiet, cli.verbose) {
        (true, _) => Volume::Quiet,
        (false, 0) => Volume::Normal,
        (false, _) => Volume::Loud,
    });
    logging(cli.quiet, cli.verbose);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        match cli.command {
            Sub::Agent(agent) => agent.run().await,
            Sub::Serve(serve) => serve.run().await,
            Sub::Exec(exec) => exec.run().await,
            Sub::Shell(shell) => shell.run().await,
            Sub::Image(image) => image.run().await,
            Sub::Snapshot(snapshot) => snapshot.run().await,
            Sub::Allow(allow) => allow.run(),
            Sub::Network(network) => network.run().await,
            Sub::Port(port) => port.run().await,
            Sub::Protect(protect) => protect.run().await,
            Sub::Changes(changes) => changes.run().await,
            Sub::Diff(diff) => diff.run().await,
            Sub::Apply(apply) => apply.run().await,
            Sub::Discard(discard) => discard.run().await,
            Sub::Sync(sync) => sync.run().await,
            Sub::Doctor(doctor) => doctor.run().await,
            Sub::SshConfig(config) => config.run(),
            Sub::SshProxy(proxy) => proxy.run().await,
            Sub::Completions(completions) => completions.run(),
            Sub::Man(man) => man.run(),
            Sub::Keep(keep) => keep.run().await,
            Sub::Start(start) => start.run().await,
            Sub::Stop(stop) => stop.run().await,
            Sub::Ls(ls) => ls.run().await,
            Sub::Status(status) => status.run().await,
            Sub::Logs(logs) => logs.run().await,
            Sub::Log(log) => log.run().await,
            Sub::Config(config) => config.run(),
            Sub::Data(data) => data.run().await,
            Sub::Rm(rm) => rm.run().await,
            Sub::Prune(prune) => prune.run().await,
        }
    });
    // A blocking read of standard input can't be cancelled, and must not delay the exit.
    runtime.shutdown_background();
    done
}

/// Prints the help or the version that was asked for, or what is wrong with the arguments.
fn asked_or_misused(error: &clap::Error) -> Done {
    // It knows whether its stream takes colours.
    match (error.print(), error.use_stderr()) {
        (Err(error), false) => return Err(Stream::Output.unwritten(&error).into()),
        // What nobody can be told changes no status.
        (Ok(()), _) | (Err(_), true) => {}
    }
    let code = u8::try_from(error.exit_code()).unwrap_or(u8::MAX);
    Ok(ExitCode::from(code))
}

fn load(flags: Raw) -> anyhow::Result<Config> {
    let config = Config::load(Sources::of_process(flags)?)?;
    if let Some(ignored) = &config.ignored {
        say!("{ignored}");
    }
    Ok(config)
}

/// Puts a change into the user's file if `save` asks for it, and says so; gives its path. Says of one that was only `applied`
/// to a sandbox how long it holds. `change` gives the file's text before and after.
fn saved(
    save: bool,
    applied: bool,
    change: impl FnOnce(&Path) -> Result<(String, String), ConfigError>,
) -> anyhow::Result<Option<String>> {
    if !save {
        if applied {
            say!("until it is stopped; --save puts it into your configuration, too");
        }
        return Ok(None);
    }
    let file = Sources::of_process(Raw::default())?.user_file;
    let file = file.ok_or_else(|| anyhow::anyhow!("find your configuration: set HOME"))?;
    let (before, after) = change(&file)?;
    match before == after {
        true => say!("{} has it already", file.display()),
        false => say!("saved in {}", file.display()),
    }
    Ok(Some(file.display().to_string()))
}

/// Does something with each of several subjects, also after one that failed; fails if any did.
fn each<T>(all: &[T], mut work: impl FnMut(&T) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut last = Ok(());
    for subject in all {
        let done = work(subject);
        if let Err(earlier) = std::mem::replace(&mut last, done) {
            match last {
                Err(_) => shown::complain(format_args!("failed to {earlier:#}")),
                Ok(()) => last = Err(earlier),
            }
        }
    }
    last
}

/// As [`load`], for subcommands that start a sandbox and so share the workspace.
fn load_to_share(flags: Raw) -> anyhow::Result<Config> {
    let config = load(flags)?;
    config.check_workspace()?;
    Ok(config)
}

/// Logs go to standard error; standard output belongs to the protocol and to commands.
fn logging(quiet: bool, verbose: u8) {
    let default = match verbose {
        _ if quiet => "snowglobe=error",
        // The log of a sandbox's process says when it began and why it ended.
        0 => "snowglobe=warn,snowglobe::keeper=info",
        1 => "snowglobe=info",
        _ => "snowglobe=debug,russh=info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SNOWGLOBE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt()
        // It would say so on standard error, and panic where that is closed.
        .log_internal_errors(false)
        .with_env_filter(filter)
        // Messages may hold text of guests and registries: without colours of ours, none of theirs is taken for ours.
        .with_writer(shown::err)
        .with_ansi(false)
        .with_target(false)
        .compact()
        .init();
}
