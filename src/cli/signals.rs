//! The signals that end this program.

use std::sync::OnceLock;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The number of the signal that came, once one has.
static CAME: OnceLock<watch::Receiver<Option<u8>>> = OnceLock::new();

/// From now on a signal does not end this program at once: [`terminated`] returns, also when it is called later.
pub(super) fn watch() {
    came();
}

/// Waits for a signal that ends the program; returns its number.
pub(super) async fn terminated() -> u8 {
    let mut came = came();
    match came.wait_for(Option::is_some).await {
        Ok(number) => number.unwrap_or_default(),
        // Signals can't be received, so they end this program at once.
        Err(_) => std::future::pending().await,
    }
}

fn came() -> watch::Receiver<Option<u8>> {
    let start = || {
        let (sender, receiver) = watch::channel(None);
        let kinds = [
            (SignalKind::terminate(), 15),
            (SignalKind::interrupt(), 2),
            (SignalKind::hangup(), 1),
        ];
        for (kind, number) in kinds {
            let Ok(mut signals) = signal(kind) else {
                continue;
            };
            let sender = sender.clone();
            tokio::spawn(async move {
                if signals.recv().await.is_some() {
                    sender.send_if_modified(|came| came.replace(number).is_none());
                }
            });
        }
        receiver
    };
    CAME.get_or_init(start).clone()
}
