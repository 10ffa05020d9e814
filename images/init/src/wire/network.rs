//! Requests that open streams beside the guest link: what the guest wants from the network, and what the host wants
//! from the guest's ports. Each is a JSON object; see [`crate::streams`].

use serde::{Deserialize, Serialize};

/// The port of the guest that carries the streams, on engines with vsock.
pub const STREAMS_PORT: u32 = 1025;

/// The name of the virtio-serial port that carries the streams.
pub const STREAMS_NAME: &str = "snowglobe.streams";

/// What the host sends first, after the [synchronizing](super) lines.
pub const BEGINNING: &[u8] = b"SNOWGLOBE-STREAMS 1\n";

/// The bundle of authorities for programs that are told where it is.
pub const AUTHORITIES: &str = "/run/snowglobe/ca-certificates.crt";

/// The most bytes of the host's authorities.
pub const MAX_AUTHORITIES: u64 = 4 << 20;

/// The most bytes of a program's command line.
pub const MAX_COMMAND: usize = 300;

/// What the guest asks the host for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromGuest {
    /// Whether a name may be used and exists. The answer is empty, and the stream ends with it.
    Resolve {
        /// The name.
        name: String,
        /// Who asks, if the guest knows.
        by: Option<Program>,
    },
    /// A connection. The answer is empty, and comes once the host has connected.
    Connect {
        /// A name, or a literal address.
        host: String,
        /// The port.
        port: u16,
        /// Who asks, if the guest knows.
        by: Option<Program>,
    },
}

/// A program of the guest, as the guest tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its command line, at most [`MAX_COMMAND`] bytes of it.
    pub command: String,
}

/// What the host asks the guest for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromHost {
    /// A connection to a port of the guest's loopback addresses.
    Reach {
        /// The port.
        port: u16,
    },
    /// That connections to anywhere are brought to the host from now on. After the answer, which is empty, the host
    /// sends the authorities that the guest is to trust, as PEM, and ends the stream; then it is done.
    Egress,
    /// Which ports the guest's programs listen on: the answer is a list of [`Listener`]s, and the stream ends with it.
    Listeners,
}

/// A port on which a program of the guest listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// Which program listens, if the guest knows.
    pub by: Option<String>,
}
