//! Names of models.

use std::fmt;
use std::str::FromStr;

use super::error::ProviderError;

/// A model's name: `PROVIDER/MODEL`, as in `anthropic/claude-sonnet-4-5`; the model's own name may hold slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ModelName {
    /// The provider's name.
    pub(super) provider: String,
    /// The model's name at the provider.
    pub(super) model: String,
}

/// The longest name.
const LONGEST: usize = 256;

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

impl FromStr for ModelName {
    type Err = ProviderError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |why: &str| ProviderError::Name {
            name: text.chars().take(LONGEST).collect(),
            why: why.to_owned(),
        };
        let good = |c: char| !c.is_whitespace() && !c.is_control();
        match text.split_once('/') {
            _ if text.len() > LONGEST => Err(refused("it is longer than 256 bytes")),
            _ if !text.chars().all(good) => Err(refused("it holds spaces or control characters")),
            Some((provider, model)) if !provider.is_empty() && !model.is_empty() => Ok(Self {
                provider: provider.to_owned(),
                model: model.to_owned(),
            }),
            _ => Err(refused(
                "expected PROVIDER/MODEL, such as anthropic/claude-sonnet-5-5",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_has_a_provider_and_a_model() {
        let name: ModelName = "openrouter/qwen/qwen3-coder:free".parse().unwrap();
        assert_eq!(name.provider, "openrouter");
        assert_eq!(name.model, "qwen/qwen3-coder:free");
        let long = format!("a/{}", "b".repeat(300));
        for bad in ["", "x", "/x", "x/", "a/b c", "a/\u{1b}", &long] {
            let error = bad.parse::<ModelName>().unwrap_err().to_string();
            assert!(error.starts_with("use the model "), "{error}");
            assert!(error.len() < 400, "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_is_written(text in "[a-z]{1,9}(/[a-zA-Z0-9:.@_-]{1,9}){1,3}") {
            let name: ModelName = text.parse().unwrap();
            prop_assert_eq!(name.to_string(), text);
        }
    }
}
