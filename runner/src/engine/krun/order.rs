//! What the runner and the machine's process agree on.

use serde::{Deserialize, Serialize};
use snowglobe_runner::VmSpec;

/// The name of the socket that libkrun makes.
pub(super) const SOCKET: &str = "link";

/// The name of the streams' socket, beside it.
pub(super) const STREAMS: &str = "streams";

/// The directory of that socket, in the machine's file system.
pub(super) const SOCKET_DIRECTORY: &str = "/snowglobe-link";

/// The number at which the machine's process inherits its console.
pub(super) const CONSOLE_FD: i32 = 3;

/// The number at which it inherits the socket on which it sends the link's directory.
pub(super) const HAND_OVER_FD: i32 = 4;

/// The numbers at which it inherits the sockets of the shares' servers, from this one on.
pub(super) const FIRST_SHARE_FD: u32 = 5;

/// The order of the machine's process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) spec: VmSpec,
}
