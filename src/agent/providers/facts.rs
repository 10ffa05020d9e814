//! What is known of a model, and what the user says of it.

use serde::{Deserialize, Serialize};

use crate::agent::message::Usage;

/// What is known of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Facts {
    /// Tokens that request and answer may have together.
    pub(crate) window: u64,
    /// Tokens that an answer may have.
    pub(crate) longest_answer: u64,
    /// Its price, if it is known.
    pub(crate) price: Option<Price>,
    /// Whether it sees images.
    pub(crate) images: bool,
}

/// US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Price {
    /// Of a request.
    pub(crate) input: f64,
    /// Of a request, read from the cache; as any other if it is not given.
    cache_read: Option<f64>,
    /// Of a request, written to the cache; as any other if it is not given.
    cache_write: Option<f64>,
    /// Of an answer.
    pub(crate) output: f64,
}

impl Price {
    /// What tokens cost, in US dollars.
    pub(crate) fn of(self, usage: Usage) -> f64 {
        let cached = usage.cache_read.saturating_add(usage.cache_write);
        let of = |tokens: u64, price: f64| tokens as f64 * price / 1e6;
        of(usage.input.saturating_sub(cached), self.input)
            + of(usage.cache_read, self.cache_read.unwrap_or(self.input))
            + of(usage.cache_write, self.cache_write.unwrap_or(self.input))
            + of(usage.output, self.output)
    }
}

/// What a file says of a model: the user's of one, or ours of a family.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Said {
    #[serde(deserialize_with = "tokens")]
    window: Option<u64>,
    #[serde(deserialize_with = "tokens")]
    pub(super) longest_answer: Option<u64>,
    images: Option<bool>,
    pub(super) reasons: Option<bool>,
    pub(super) effort: Option<String>,
    price: Option<Price>,
}

/// The window of a model that is not known, at a cloud's provider and on a local server.
const CLOUD: u64 = 128_000;
const LOCAL: u64 = 32_768;

impl Said {
    /// The facts that result. `known`: of the model's family, at its maker. `local`: it runs on a server of the user's own.
    /// `sold`: its provider takes the maker's price.
    pub(super) fn facts(&self, known: &Self, local: bool, sold: bool) -> Facts {
        // A local server seldom has the memory for all that the model could do.
        let most = if local { LOCAL } else { u64::MAX };
        let usual = if local { LOCAL } else { CLOUD };
        let window = known.window.unwrap_or(usual).min(most);
        let longest = known.longest_answer.unwrap_or(window / 4).min(most / 4);
        let window = self.window.unwrap_or(window);
        Facts {
            window,
            longest_answer: self.longest_answer.unwrap_or(longest).min(window),
            price: self.price.or(known.price.filter(|_| sold && !local)),
            images: self.images.or(known.images).unwrap_or(false),
        }
    }
}

fn tokens<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    match u64::deserialize(from)? {
        tokens @ 256..=0x1_0000_0000 => Ok(Some(tokens)),
        _ => Err(serde::de::Error::custom(
            "too few or too many, expected a number of tokens, from 256 on",
        )),
    }
}
