//! The end of a keeper, and why it comes.

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Why a keeper ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// A client asked for it.
    Asked,
    /// Nothing has used the sandbox for so long.
    Idle(Duration),
    /// The client that started it left before the machine had booted.
    Left,
    /// The machine that it was started for could not be booted.
    NotBooted,
    /// Its runtime directory is gone, so no client can join it.
    NotFound(PathBuf),
    /// A signal.
    Signal(u8),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("`snowglobe stop`"),
            Self::Idle(time) => write!(
                f,
                "nothing has used it for {} s (idle_stop_s)",
                time.as_secs()
            ),
            Self::Left => f.write_str("its client left before the machine had booted"),
            Self::NotBooted => f.write_str("its machine did not boot"),
            Self::NotFound(path) => write!(
                f,
                "{} is gone, as after a logout, so nothing can join it",
                path.display()
            ),
            Self::Signal(number) => write!(f, "signal {number}, as at a logout or a shutdown"),
        }
    }
}

/// Whether a keeper is to end.
#[derive(Debug, Default)]
pub(super) struct Ending {
    token: CancellationToken,
    why: OnceLock<End>,
}

impl Ending {
    /// Ends the keeper. The first reason counts.
    pub(super) fn end(&self, why: End) {
        self.why.set(why).ok();
        self.token.cancel();
    }

    /// Whether the keeper is to end.
    pub(super) fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits for the end; gives its reason.
    pub(super) async fn ended(&self) -> &End {
        self.token.cancelled().await;
        self.why.get().unwrap_or(&End::Asked)
    }
}
