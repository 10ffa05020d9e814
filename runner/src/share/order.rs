//! What the runner tells the process that serves a share.

use serde::{Deserialize, Serialize};
use snowglobe_runner::Share;

/// The process's whole input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// What to serve. The process starts in the shared directory, so the path is for messages only.
    pub(super) share: Share,
}
