//! Showing a log, and with `--follow` what is added to it, until ctrl-C.

use std::process::ExitCode;
use std::time::Duration;

use super::{Done, signals};
use crate::blocking::blocking_here;

/// How often a followed log is read.
const POLL: Duration = Duration::from_millis(200);

/// Shows what is read until nothing more is written; with `follow`, until a signal comes. An empty reading means that no
/// more is written at the moment.
pub(super) async fn show<T>(
    follow: bool,
    mut read: impl FnMut() -> anyhow::Result<Vec<T>>,
    mut show: impl FnMut(Vec<T>) -> anyhow::Result<()>,
) -> Done {
    let ended = signals::terminated();
    tokio::pin!(ended);
    loop {
        let records = blocking_here(&mut read)?;
        if !records.is_empty() {
            show(records)?;
            continue;
        }
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            signal = &mut ended => return Ok(ExitCode::from(128 + signal)),
        }
    }
}
