//! `snowglobe agent`: the terminal agent.

mod demo;
mod models;

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::ending::{Interrupted, Misused};
use super::{Done, signals, terminal};
use crate::agent::conversation::{self, Brain, Limits, Setup};
use crate::agent::event::TurnEnd;
use crate::agent::providers::{ModelName, Models};
use crate::agent::servers::Own;
use crate::agent::session::Session;
use crate::agent::{demo as script, headless, tui};
use crate::config::{Config, Raw};

/// The most of standard input that is added to a prompt, in bytes.
const LONGEST_INPUT: u64 = 8 << 20;

/// The exit status if the model or its provider refused.
const REFUSED: u8 = 3;

/// The exit status if a limit was reached.
const LIMIT: u8 = 4;

/// Work on this project with a model, whose tools act inside the sandbox.
///
/// Exit status with -p: 0 the model is done, 3 it refused, 4 a limit was reached, 125 it failed, 130 interrupted.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Agent {
    #[command(subcommand)]
    other: Option<Other>,
    /// What to say first
    #[arg(value_name = "PROMPT", conflicts_with_all = ["print", "demo"])]
    first: Option<String>,
    /// Answer this and exit; standard input is added to it
    #[arg(short = 'p', long = "print", value_name = "PROMPT")]
    print: Option<String>,
    /// With -p, or where there is no terminal: print each event as a line of JSON
    #[arg(long)]
    json: bool,
    /// Model to ask, as PROVIDER/MODEL [default: agent.toml's, else one whose key is there]
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,
    /// Go on with the newest session of this project
    #[arg(long = "continue", conflicts_with = "resume")]
    newest: bool,
    /// Go on with a session; without its name, choose from a list
    #[arg(long, value_name = "SESSION", num_args = 0..=1, default_missing_value = "")]
    resume: Option<String>,
    /// How many answers of the model a turn may have
    #[arg(long, value_name = "N")]
    max_turns: Option<u32>,
    /// How much this run may cost, in US dollars
    #[arg(long, value_name = "DOLLARS")]
    max_cost: Option<f64>,
    /// Whether what stays inside the sandbox needs no question; what crosses its border always does
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true")]
    yes_inside: bool,
    /// Use the sandbox of a Snowglobe server over HTTP, such as http://127.0.0.1:8808/mcp
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// File with the token for --url
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// Play a task in a real sandbox with a scripted model: needs no key and no network
    #[arg(long, conflicts_with_all = ["print", "model", "newest", "resume", "url", "max_cost"])]
    demo: bool,
    #[command(flatten)]
    config: Box<Raw>,
}

/// What the agent does beside its work.
#[derive(Debug, clap::Subcommand)]
enum Other {
    /// List the models that can be asked, and test them
    Models(models::ListModels),
}

impl Agent {
    pub(super) async fn run(self) -> Done {
        if let Some(Other::Models(list)) = self.other {
            return list.run(*self.config).await;
        }
        if self.demo {
            return self.play().await;
        }
        if self.print.is_none() && !terminal::is_there() {
            return Err(Misused(
                "open the agent: standard input and output are no terminal; use `snowglobe agent -p PROMPT` in scripts"
                    .into(),
            )
            .into());
        }
        let setup = self.setup_asked_for()?;
        match &self.print {
            Some(prompt) => answer(setup, with_input(prompt)?, self.json).await,
            None => {
                let prompt = self.first.clone();
                let shell = self.url.is_none().then(|| as_flags(&self.config));
                open(setup, prompt, self.picks(), shell).await
            }
        }
    }

    /// Plays the demo.
    async fn play(self) -> Done {
        let stage = demo::Stage::make((*self.config).clone())?;
        let (config, flags) = (stage.config.clone(), stage.flags.clone());
        let session = Session::create(&config.host.dirs.data, &config.sandbox.project_dir);
        let shell = Some(as_flags(&flags));
        let own = Own {
            config,
            flags,
            url: None,
            token: None,
        };
        let setup = self.setup(Brain::Demo, script::MODEL.parse()?, own, session);
        let prompt = script::PROMPT.to_owned();
        let done = match terminal::is_there() {
            true => open(setup, Some(prompt), false, shell).await,
            false => answer(setup, prompt, self.json).await,
        };
        stage.clear().await?;
        done
    }

    /// The models, the session and the servers that the flags ask for.
    fn setup_asked_for(&self) -> anyhow::Result<Setup> {
        let flags = (*self.config).clone();
        let config = match self.url {
            Some(_) => super::load(flags.clone())?,
            None => super::load_to_share(flags.clone())?,
        };
        let settings = config.host.dirs.config.as_deref();
        let models = Models::load(settings.unwrap_or("/".as_ref()))?;
        let (session, mended) = self.session(&config)?;
        if let Some(mended) = mended {
            say!("{mended}");
        }
        let model = match self.model.as_deref().or(session.model()) {
            Some(name) => models.model(name)?,
            None => models.default_model()?,
        };
        if self.max_cost.is_some() && models.facts(&model).price.is_none() {
            return Err(Misused(format!(
                "keep to --max-cost: the price of {model} is not known; state it in agent.toml, as \
                 [models.\"{model}\"] price = {{ input = 3.0, output = 15.0 }}, in dollars for a million tokens"
            ))
            .into());
        }
        let own = Own {
            config,
            flags,
            url: self.url.clone(),
            token: self.token()?,
        };
        Ok(self.setup(Brain::Models(Box::new(models)), model, own, session))
    }

    fn setup(&self, brain: Brain, model: ModelName, own: Own, session: Session) -> Setup {
        Setup {
            brain,
            model,
            own,
            session,
            limits: Limits {
                turns: self.max_turns,
                dollars: self.max_cost,
            },
            yes_inside: self.yes_inside,
        }
    }

    /// The session to go on with, or a new one, and what had to be mended.
    fn session(&self, config: &Config) -> anyhow::Result<(Session, Option<String>)> {
        let (data, project) = (&config.host.dirs.data, &config.sandbox.project_dir);
        if !self.newest && (self.resume.is_none() || self.picks()) {
            return Ok((Session::create(data, project), None));
        }
        let (sessions, unreadable) = Session::list(data, project);
        for problem in unreadable {
            say!("{problem}");
        }
        let wanted = self.resume.as_deref().unwrap_or_default();
        let found = sessions
            .iter()
            .find(|session| wanted.is_empty() || session.id.starts_with(wanted));
        let Some(found) = found else {
            let which = match wanted {
                "" => "there is none of this project".to_owned(),
                name => format!("there is none of this project whose name begins with {name}"),
            };
            return Err(Misused(format!("continue a session: {which}")).into());
        };
        Ok(Session::open(&found.path)?)
    }

    /// Whether the person picks a session on the terminal.
    fn picks(&self) -> bool {
        self.resume.as_deref() == Some("") && self.print.is_none()
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.token_file else {
            return Ok(std::env::var("SNOWGLOBE_TOKEN").ok());
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read the token file {}", path.display()))?;
        Ok(Some(text.trim().to_owned()))
    }
}

/// Opens the terminal front end. With `resume`, the person first picks a session. `shell` has the flags that make
/// `snowglobe shell` join the same sandbox; without them the front end offers no shell.
async fn open(
    setup: Setup,
    prompt: Option<String>,
    resume: bool,
    shell: Option<Vec<String>>,
) -> Done {
    let config = &setup.own.config;
    let options = tui::Options {
        project: config.sandbox.project_dir.clone(),
        data_dir: config.host.dirs.data.clone(),
        prompt,
        resume,
        shell,
        network: config.sandbox.network.mode,
    };
    match tui::run(options, conversation::start(setup)).await? {
        Some(signal) => Err(Interrupted(signal).into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Settings as the flags that give them. How registries are reached is in a file only.
fn as_flags(settings: &Raw) -> Vec<String> {
    let variables = settings.env.iter();
    let variables = variables.map(|(name, value)| format!("--env={name}={value}"));
    let settings = serde_json::to_value(settings).unwrap_or_default();
    let others = settings.as_object().into_iter().flatten();
    let others = others.filter_map(|(key, value)| super::ssh::flag(key, value));
    variables.chain(others).collect()
}

/// Answers one prompt without a terminal.
async fn answer(setup: Setup, prompt: String, json: bool) -> Done {
    let interrupted = async {
        signals::terminated().await;
    };
    let handle = conversation::start(setup);
    ended(headless::run(prompt, json, handle, interrupted).await?)
}

/// A prompt with standard input, if that is a pipe or a file.
fn with_input(prompt: &str) -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(prompt.to_owned());
    }
    let mut input = Vec::new();
    let read = stdin.lock().take(LONGEST_INPUT + 1).read_to_end(&mut input);
    read.context("read standard input")?;
    anyhow::ensure!(
        input.len() as u64 <= LONGEST_INPUT,
        "add standard input to the prompt: it is longer than {}; put it into a file of the project and name that",
        crate::text::size(LONGEST_INPUT)
    );
    let input = String::from_utf8_lossy(&input);
    Ok(match input.trim().is_empty() {
        true => prompt.to_owned(),
        false => format!("{prompt}\n\n{input}"),
    })
}

fn ended(end: TurnEnd) -> Done {
    match end {
        TurnEnd::Done => Ok(ExitCode::SUCCESS),
        TurnEnd::Refused => {
            say!("the model refused to answer");
            Ok(ExitCode::from(REFUSED))
        }
        TurnEnd::Limit(which) => {
            say!("stopped at a limit: {which}");
            Ok(ExitCode::from(LIMIT))
        }
        TurnEnd::Interrupted => Err(Interrupted(2).into()),
        TurnEnd::Failed(why) => anyhow::bail!("{why}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        config: Raw,
    }

    #[test]
    fn settings_and_their_flags_are_the_same() {
        let settings = Raw {
            name: Some("a b".to_owned()),
            memory_mib: Some(512),
            git_identity: Some(false),
            env: vec![("A".to_owned(), "b=c".to_owned())],
            ..Raw::default()
        };
        let flags = ["x".to_owned()].into_iter().chain(as_flags(&settings));
        assert_eq!(Flags::parse_from(flags).config, settings);
    }
}
