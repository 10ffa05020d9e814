//! What answers: models, or the script of the demo.

use tokio_util::sync::CancellationToken;

use crate::agent::demo;
use crate::agent::message::Assistant;
use crate::agent::providers::{Delta, Facts, ModelName, Models, ProviderError, Request};

/// What answers.
#[derive(Debug)]
pub(crate) enum Brain {
    /// Models.
    Models(Box<Models>),
    /// The script of the demo.
    Demo,
}

impl Brain {
    /// The model of that name.
    pub(super) fn model(&self, name: &str) -> Result<ModelName, ProviderError> {
        match self {
            Self::Models(models) => models.model(name),
            Self::Demo => demo::MODEL.parse(),
        }
    }

    /// What is known of a model.
    pub(super) fn facts(&self, model: &ModelName) -> Facts {
        match self {
            Self::Models(models) => models.facts(model),
            Self::Demo => demo::facts(),
        }
    }

    /// Asks a model.
    pub(super) async fn ask(
        &self,
        request: Request<'_>,
        take: &mut (dyn FnMut(Delta) + Send),
        cancel: &CancellationToken,
    ) -> Result<Assistant, ProviderError> {
        match self {
            Self::Models(models) => models.ask(request, take, cancel).await,
            Self::Demo => demo::ask(request, take, cancel).await,
        }
    }
}
