//! Models and the services that run them.
//!
//! - `settings`: the user's `agent.toml`, and what is known without it (`known.toml`);
//! - `key`: where a provider's key comes from;
//! - `facts`: what is known of a model;
//! - `turns`: a conversation as every provider accepts it;
//! - `protocol`: how each protocol says what is asked, and how its answers are read into a `draft`;
//! - `transport`: requests, and bounds for all that comes back;
//! - `failure`: which failures pass;
//! - `ask`: asking again after those.
//!
//! No client library is below this. `genai` keeps bodies and lines of any length in memory, makes a list as long as a number
//! that the provider sends, and its transport can't be replaced; it also loses the order of signed blocks, images in
//! results and the end of a broken answer. `rig-core`, which could do most of it, needs a newer compiler than this program.

mod ask;
mod asked;
mod draft;
mod error;
mod facts;
mod failure;
mod name;
mod protocol;
mod request;
mod settings;
#[cfg(test)]
mod tests;
mod transport;
mod turns;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Client;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::message::{Assistant, Message, User};
use crate::key::{Environment, KeySource};
use ask::{Pace, Take};
use asked::Asked;
use failure::{Failure, Kind};
use settings::{Provider, Settings};
use transport::Access;

pub(crate) use error::ProviderError;
pub(crate) use facts::{Facts, Price};
pub(crate) use name::ModelName;
pub(crate) use request::{Delta, Request, Tool};

/// The models that may be used, with their keys and facts.
pub(crate) struct Models {
    settings: Settings,
    environment: Box<Environment>,
    /// Made when it is first needed: it reads the system's certificates.
    client: OnceLock<Result<Client, String>>,
    /// The keys that were read, by provider.
    keys: Mutex<HashMap<String, String>>,
    pace: Pace,
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and addresses may hold secrets.
        f.debug_struct("Models").finish_non_exhaustive()
    }
}

/// What a list shows of a provider.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Its name.
    pub(crate) provider: String,
    /// Whether it can be asked, as far as is known: it has a key, or needs none.
    pub(crate) usable: bool,
    /// Where its key comes from; none if it needs none.
    pub(crate) key: Option<String>,
    /// Its models with what is known of them, or why they can't be listed.
    pub(crate) models: Result<Vec<(ModelName, Facts)>, String>,
}

impl Models {
    /// Reads the user's `agent.toml` in that directory, if there is one. Reads no key before it is needed.
    pub(crate) fn load(config_dir: &Path) -> Result<Self, ProviderError> {
        let environment = Box::new(|name: &str| std::env::var(name).ok());
        Self::with(config_dir, environment, Pace::default())
    }

    fn with(
        config_dir: &Path,
        environment: Box<Environment>,
        pace: Pace,
    ) -> Result<Self, ProviderError> {
        Ok(Self {
            settings: Settings::read(config_dir, &*environment)?,
            environment,
            client: OnceLock::new(),
            keys: Mutex::default(),
            pace,
        })
    }

    /// The configured model, else one of the first provider that has a key.
    pub(crate) fn default_model(&self) -> Result<ModelName, ProviderError> {
        if let Some(model) = &self.settings.model {
            self.settings.provider(model)?;
            return Ok(model.clone());
        }
        let usable = self.settings.providers.iter().find_map(|(name, provider)| {
            let model = provider.model.as_ref()?;
            let usable = provider.key.seems_there(&*self.environment);
            usable.then(|| format!("{name}/{model}"))
        });
        let none = || {
            ProviderError::NoModel(format!(
                "no provider has a key; set ANTHROPIC_API_KEY or another that `snowglobe agent models` names, or \
                 `model = \"PROVIDER/MODEL\"` in {} (for a server of your own: ollama/MODEL)",
                self.settings.path.display()
            ))
        };
        usable.ok_or_else(none)?.parse()
    }

    /// The model of that name; a name without a provider is looked up among the known models.
    pub(crate) fn model(&self, name: &str) -> Result<ModelName, ProviderError> {
        let name = name.trim();
        let whole: Result<ModelName, _> = name.parse();
        if let Ok(whole) = &whole
            && self.settings.provider(whole).is_ok()
        {
            return Ok(whole.clone());
        }
        let configured = self.configured().into_iter();
        let mut found: Vec<ModelName> = configured.filter(|model| model.model == name).collect();
        if let (true, Some(maker)) = (found.is_empty(), self.settings.maker(name)) {
            found.push(format!("{maker}/{name}").parse()?);
        }
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => {
                let whole = whole?;
                self.settings.provider(&whole).map(|_| whole)
            }
            several => {
                let several: Vec<String> = several.iter().map(ModelName::to_string).collect();
                Err(ProviderError::Name {
                    name: name.to_owned(),
                    why: format!(
                        "several providers have it; say which: {}",
                        several.join(", ")
                    ),
                })
            }
        }
    }

    /// What is known of a model; cautious values for one that is not known.
    pub(crate) fn facts(&self, model: &ModelName) -> Facts {
        self.settings.facts(model)
    }

    /// The models that the user's file says something of.
    pub(crate) fn configured(&self) -> Vec<ModelName> {
        let names = self.settings.models.keys();
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// Asks a model; `take` gets what comes meanwhile. Tries again after failures that pass.
    pub(crate) async fn ask(
        &self,
        request: Request<'_>,
        take: Take<'_>,
        cancel: &CancellationToken,
    ) -> Result<Assistant, ProviderError> {
        self.ask_at(request, self.pace, take, cancel).await
    }

    /// Asks a model for a word, and says how long that took.
    pub(crate) async fn test(
        &self,
        model: &ModelName,
        cancel: &CancellationToken,
    ) -> Result<Duration, ProviderError> {
        let messages = [Message::User(User {
            text: "Reply with the word: ok".to_owned(),
            ..User::default()
        })];
        let request = Request {
            model,
            system: "You answer in one word.",
            tools: &[],
            messages: &messages,
            session: "test",
        };
        let mut pace = self.pace;
        pace.times = 0;
        let began = Instant::now();
        self.ask_at(request, pace, &mut |_| {}, cancel).await?;
        Ok(began.elapsed())
    }

    async fn ask_at(
        &self,
        request: Request<'_>,
        pace: Pace,
        take: Take<'_>,
        cancel: &CancellationToken,
    ) -> Result<Assistant, ProviderError> {
        let model = request.model.to_string();
        let provider = self.settings.provider(request.model)?;
        let asked = self.ask_provider(request, provider, pace, take);
        let Some(answer) = cancel.run_until_cancelled(asked).await else {
            return Err(ProviderError::Cancelled(model));
        };
        let name = request.model.provider.as_str();
        answer.map_err(|Failure { kind, why }| {
            let why = match kind {
                Kind::TooLong => return ProviderError::TooLong { model, said: why },
                Kind::Unauthorized => {
                    let place = provider.key.place();
                    format!("{name} does not accept the key from {place}: {why}")
                }
                Kind::Quota => format!("the quota at {name} is used up: {why}"),
                _ => why,
            };
            ProviderError::Failed { model, why }
        })
    }

    async fn ask_provider(
        &self,
        request: Request<'_>,
        provider: &Provider,
        mut pace: Pace,
        take: Take<'_>,
    ) -> Result<Assistant, Failure> {
        let name = request.model.provider.as_str();
        if provider.is_local() {
            // A model may have to be loaded, and a long conversation takes minutes to read without an accelerator.
            pace.patience.beginning *= 6;
            pace.patience.silence *= 5;
        }
        loop {
            let was_kept = self.keys.lock().await.contains_key(name);
            let access = self.access(name, provider).await.map_err(Failure::last)?;
            let asked = self.asked(request, provider);
            let answer = ask::ask(&access, pace, asked, take).await;
            // The key may have been replaced since it was read.
            let refused = |failure: &Failure| failure.kind == Kind::Unauthorized;
            let is_refused = answer.as_ref().is_err_and(refused);
            if is_refused {
                self.keys.lock().await.remove(name);
            }
            if !is_refused || !was_kept {
                return answer;
            }
        }
    }

    fn asked<'a>(&self, request: Request<'a>, provider: &'a Provider) -> Asked<'a> {
        let facts = self.facts(request.model);
        let name = request.model.to_string();
        let said = self.settings.said(request.model);
        let family = self.settings.family(&request.model.model);
        let reasons = said.reasons.or(family.and_then(|family| family.reasons));
        Asked {
            request,
            turns: turns::turns(request.messages, &name, facts.images),
            longest: facts.longest_answer,
            set_longest: said.longest_answer,
            reasons: reasons.unwrap_or(false),
            effort: said.effort,
            summary: true,
            host: provider.url.host_str().unwrap_or_default(),
        }
    }

    /// All providers with their models. Those that have a key, or need none, are asked for their models at once.
    pub(crate) async fn list(&self) -> Vec<Listed> {
        let providers = self.settings.providers.iter();
        let listed = providers.map(|(name, provider)| async move {
            let usable = provider.key.seems_there(&*self.environment);
            let place = provider.key.place();
            let models = match usable {
                true => self.listed(name, provider).await,
                false => Err(format!("there is no key; set {place}")),
            };
            Listed {
                provider: name.clone(),
                usable,
                key: (provider.key != KeySource::None).then_some(place),
                models,
            }
        });
        join_all(listed).await
    }

    async fn listed(
        &self,
        name: &str,
        provider: &Provider,
    ) -> Result<Vec<(ModelName, Facts)>, String> {
        let access = self.access(name, provider).await?;
        let list = access.list().await;
        let list = list.map_err(|failure| failure.shown(&access.secrets).why)?;
        let names = protocol::models(&list).into_iter();
        let models = names.filter_map(|model| {
            let model: ModelName = format!("{name}/{model}").parse().ok()?;
            let facts = self.facts(&model);
            Some((model, facts))
        });
        Ok(models.collect())
    }

    /// How a provider is reached, with its key.
    async fn access<'a>(
        &self,
        name: &'a str,
        provider: &'a Provider,
    ) -> Result<Access<'a>, String> {
        let kept = self.keys.lock().await.get(name).cloned();
        let key = match kept {
            Some(key) => Some(key),
            // Without the lock: a command may ask for a password, and other providers need not wait for that.
            None => provider.key.read(&*self.environment).await?,
        };
        if let Some(key) = &key {
            self.keys.lock().await.insert(name.to_owned(), key.clone());
        }
        let mut headers = provider.protocol.headers(key.as_deref())?;
        // The user's count more.
        headers.extend(provider.headers.clone());
        Ok(Access {
            name,
            provider,
            client: self.client.get_or_init(transport::client).clone()?,
            headers,
            secrets: provider.secrets().into_iter().chain(key).collect(),
        })
    }
}
