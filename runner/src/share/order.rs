//! The order of the process that serves a share.

use serde::{Deserialize, Serialize};
use snowglobe_runner::Share;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The directory itself is the working directory; its path is for messages.
    pub(super) share: Share,
}
