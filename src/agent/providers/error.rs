//! Why a model gave no answer.

/// Why a model gave no answer. Its text reads well after "failed to", and holds no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    /// The user's file can't be used.
    #[error("read {path}: {why}")]
    Settings {
        /// The file.
        path: String,
        /// What is wrong, and what was expected.
        why: String,
    },
    /// A model's name can't be used.
    #[error("use the model {name:?}: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong, and what was expected.
        why: String,
    },
    /// No model is set, and no provider has a key.
    #[error("choose a model: {0}")]
    NoModel(String),
    /// The conversation is too long for the model.
    #[error("ask {model}: the conversation is too long for it: {said}")]
    TooLong {
        /// The model.
        model: String,
        /// What the provider said.
        said: String,
    },
    /// There is no answer, and trying again does not help or did not.
    #[error("ask {model}: {why}")]
    Failed {
        /// The model.
        model: String,
        /// Why.
        why: String,
    },
    /// The call was cancelled.
    #[error("ask {0}: it was interrupted")]
    Cancelled(String),
}
