//! `snowglobe agent models`: the models that can be asked.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::agent::providers::{Facts, Listed, ModelName, Models, Price, ProviderError};
use crate::cli::{Done, load};
use crate::config::Raw;
use crate::shown;
use crate::text::{duration, grouped};

/// List the models that can be asked, and test them.
///
/// Keys come from the environment (ANTHROPIC_API_KEY, OPENAI_API_KEY, GEMINI_API_KEY, OPENROUTER_API_KEY), or as
/// agent.toml in the configuration directory says.
#[derive(Debug, clap::Args)]
pub(super) struct ListModels {
    /// Ask a model for a word; without its name, the default and those in agent.toml
    #[arg(long, value_name = "MODEL", num_args = 0..=1, default_missing_value = "")]
    test: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ListModels {
    pub(super) async fn run(self, flags: Raw) -> Done {
        let config = load(flags)?;
        let models = Models::load(config.host.dirs.config.as_deref().unwrap_or("/".as_ref()))?;
        match &self.test {
            Some(name) => self.test(&models, name).await,
            None => self.list(&models).await,
        }
    }

    async fn list(&self, models: &Models) -> Done {
        let default = models.default_model();
        let name = default.as_ref().ok();
        let listed = models.list().await;
        let mut out = shown::out();
        if self.json {
            let providers: Vec<Value> = listed.iter().map(|listed| as_json(listed, name)).collect();
            let default = name.map(ModelName::to_string);
            let all = json!({"default": default, "providers": providers});
            writeln!(out, "{}", shown::json(&all)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        for listed in &listed {
            writeln!(out, "{}", as_text(listed, name))?;
        }
        match &default {
            Ok(model) => writeln!(
                out,
                "default: {model} ({})",
                described(&models.facts(model))
            )?,
            Err(error) => writeln!(out, "no default: failed to {error}")?,
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn test(&self, models: &Models, name: &str) -> Done {
        let names = match name {
            "" => {
                let mut names = models.configured();
                match models.default_model() {
                    Ok(default) if !names.contains(&default) => names.insert(0, default),
                    Err(error) if names.is_empty() => return Err(error.into()),
                    _ => {}
                }
                names
            }
            name => vec![models.model(name)?],
        };
        let cancel = CancellationToken::new();
        let tests = join_all(names.iter().map(|name| models.test(name, &cancel))).await;
        let works = tests.iter().all(Result::is_ok);
        let mut out = shown::out();
        if self.json {
            let rows = names.iter().zip(&tests);
            let rows: Vec<Value> = rows.map(|(name, test)| tested(name, test)).collect();
            writeln!(out, "{}", shown::json(&rows)?)?;
        } else {
            for (name, test) in names.iter().zip(tests) {
                match test {
                    Ok(took) => writeln!(out, "{name}: ok, {}", duration(took))?,
                    Err(error) => writeln!(out, "{name}: failed to {error}")?,
                }
            }
        }
        Ok(match works {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

fn tested(name: &ModelName, test: &Result<Duration, ProviderError>) -> Value {
    let name = name.to_string();
    match test {
        Ok(took) => json!({"name": name, "works": true, "seconds": took.as_secs_f64()}),
        Err(error) => {
            json!({"name": name, "works": false, "problem": format!("failed to {error}")})
        }
    }
}

fn as_json(listed: &Listed, default: Option<&ModelName>) -> Value {
    let row = |(name, facts): &(ModelName, Facts)| {
        let mut row = json!(facts);
        row["name"] = json!(name.to_string());
        row["default"] = json!(Some(name) == default);
        row
    };
    let models = listed.models.as_deref();
    json!({
        "provider": listed.provider,
        "usable": listed.usable,
        "key": listed.key,
        "problem": models.err(),
        "models": models.unwrap_or_default().iter().map(row).collect::<Vec<_>>(),
    })
}

fn as_text(listed: &Listed, default: Option<&ModelName>) -> String {
    let key = match (&listed.key, listed.usable) {
        (Some(key), true) => format!("  (key: {key})"),
        (Some(_), false) => String::new(),
        (None, _) => "  (no key needed)".to_owned(),
    };
    let mut text = format!("{}{key}\n", listed.provider);
    match &listed.models {
        Err(why) => text.push_str(&format!("    {why}\n")),
        Ok(models) if models.is_empty() => text.push_str("    no models\n"),
        Ok(models) => {
            let names = models.iter().map(|(name, _)| name.to_string());
            let width = names.map(|name| name.len()).max().unwrap_or(0);
            for (name, facts) in models {
                let mark = if Some(name) == default { '*' } else { ' ' };
                let (name, facts) = (name.to_string(), described(facts));
                text.push_str(&format!("  {mark} {name:width$}  {facts}\n"));
            }
        }
    }
    text
}

/// What is known of a model: `200,000 tokens, $3 in, $15 out`.
fn described(facts: &Facts) -> String {
    let window = format!("{} tokens", grouped(facts.window));
    match facts.price {
        Some(Price { input, output, .. }) => format!("{window}, ${input} in, ${output} out"),
        None => window,
    }
}
