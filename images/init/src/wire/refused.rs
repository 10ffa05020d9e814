//! What no SSH client of the user's may do over a connection to a guest.

use std::fmt;

/// Something that SSH offers and that would give the guest a part of the user's computer. The host refuses it before it
/// connects, if it can see it; the guest's own server refuses it, too, for what comes by a way that the host cannot see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Agent forwarding.
    Agent,
    /// X11 forwarding.
    X11,
    /// Remote forwarding, of ports and of sockets.
    Remote,
    /// A network device.
    Tunnel,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => {
                "agent forwarding (-A, ForwardAgent) is refused: the sandbox could use your keys"
            }
            Self::X11 => {
                "X11 forwarding (-X, -Y, ForwardX11) is refused: the sandbox could see your screen and type for you"
            }
            Self::Remote => {
                "remote forwarding (-R, RemoteForward) is refused: the sandbox could reach what only your computer can; \
                 local forwarding (-L, -D) works"
            }
            Self::Tunnel => {
                "a tunnel (-w, Tunnel) is refused: the sandbox could send packets to your network"
            }
        })
    }
}
