//! Requests to the guest.

use std::sync::Arc;

use bytes::Bytes;
use snowglobe_init::wire::{Report, Request, Status};

use super::{Sandbox, SandboxError};
use crate::guest::{Guest, GuestError, Output, unexpected};
use crate::progress::Progress;

impl Sandbox {
    /// Sends a request that may change a file.
    pub(super) async fn request(
        self: &Arc<Self>,
        request: &Request,
        input: Bytes,
        progress: &Progress,
    ) -> Result<(Report, Bytes), SandboxError> {
        let _changing = self.read_ahead.changing();
        self.ask(request, input, progress).await
    }

    pub(super) async fn ask(
        self: &Arc<Self>,
        request: &Request,
        input: Bytes,
        progress: &Progress,
    ) -> Result<(Report, Bytes), SandboxError> {
        let (live, guest) = self.ready(progress).await?;
        self.answer(&live, gathered(&guest, request, input)).await
    }

    /// Sends a request to the machine that runs, if one does. A failure is not reported: the next call will meet it.
    pub(super) async fn peek(&self, request: &Request) -> Option<(Report, Bytes)> {
        let live = self.published.running()?;
        let asked = async {
            let guest = live.machine.guest().await.ok()?;
            gathered(&guest, request, Bytes::new()).await.ok()
        };
        tokio::select! {
            answer = asked => answer,
            _ = live.machine.vm.stalled() => None,
        }
    }

    /// The guest's uptime, load and memory.
    pub async fn status(self: &Arc<Self>, progress: &Progress) -> Result<Status, SandboxError> {
        match self
            .request(&Request::Status, Bytes::new(), progress)
            .await?
        {
            (Report::Status(status), _) => Ok(status),
            (other, _) => Err(unexpected("status", &other).into()),
        }
    }

    /// The process ids of the VM's runner and engine, while it runs.
    pub fn processes(&self) -> Option<(u32, u32)> {
        let live = self.published.running()?;
        Some((live.machine.vm.runner_pid, live.machine.vm.engine_pid))
    }
}

/// The guest's report with its data.
pub(super) async fn gathered(
    guest: &Guest,
    request: &Request,
    input: Bytes,
) -> Result<(Report, Bytes), GuestError> {
    let mut data = Vec::new();
    let mut collect = |output| {
        if let Output::Stdout(bytes) = output {
            data.extend_from_slice(&bytes);
        }
    };
    let report = guest.request(request, input, &mut collect).await?;
    Ok((report, data.into()))
}
