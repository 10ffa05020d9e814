//! Work on files that the guest does by itself: replacing text, searching.

use std::sync::Arc;

use bytes::Bytes;
use snowglobe_init::wire::{
    EditReport, EditRequest, FoundLine, Report, Request, SearchReport, SearchRequest,
};

use super::{Sandbox, SandboxError};
use crate::guest::{GuestError, unexpected};
use crate::progress::Progress;

impl Sandbox {
    /// Replaces text in a file, atomically.
    pub async fn edit(
        self: &Arc<Self>,
        edit: EditRequest,
        progress: &Progress,
    ) -> Result<EditReport, SandboxError> {
        match self
            .request(&Request::Edit(edit), Bytes::new(), progress)
            .await?
        {
            (Report::Edit(report), _) => Ok(report),
            (other, _) => Err(unexpected("edit", &other).into()),
        }
    }

    /// Searches files; gives the lines in the order of the files' paths.
    pub async fn search(
        self: &Arc<Self>,
        search: SearchRequest,
        progress: &Progress,
    ) -> Result<(SearchReport, Vec<FoundLine>), SandboxError> {
        let (report, data) = self
            .request(&Request::Search(search), Bytes::new(), progress)
            .await?;
        let Report::Search(report) = report else {
            return Err(unexpected("search", &report).into());
        };
        let lines = data
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()
            .map_err(|error| GuestError::Protocol {
                operation: "search",
                message: error.to_string(),
            })?;
        Ok((report, lines))
    }
}
