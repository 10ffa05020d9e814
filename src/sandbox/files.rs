//! Work on files, which the guest does by itself: reading, writing, replacing text, searching.

use std::sync::Arc;

use bytes::Bytes;
use snowglobe_init::wire::{
    EditReport, EditRequest, FoundLine, ReadReport, ReadRequest, ReadWant, Report, Request,
    SearchReport, SearchRequest, User, WriteRequest,
};

use super::ahead::{Follows, Page};
use super::{Read, Sandbox, SandboxError, Write, Written};
use crate::guest::{GuestError, unexpected};
use crate::progress::Progress;

/// The longest image that the guest sends. What shows it makes it smaller where that is too long.
const IMAGE_BYTES: u64 = 20 << 20;

impl Sandbox {
    /// Reads lines (from 1) of a text, `max_bytes` at most, or what may be an image, or a directory.
    pub async fn read(
        self: &Arc<Self>,
        path: &str,
        offset: u64,
        limit: u64,
        max_bytes: u64,
        progress: &Progress,
    ) -> Result<Read, SandboxError> {
        let page = Page {
            path,
            offset,
            limit,
            max_bytes,
        };
        if let Some(follows) = self.ahead.follows(&page) {
            match follows {
                Follows::Here(read) if self.runs().await => return Ok(read),
                _ => {}
            }
            let stretch = self.lines(&page.stretch(), progress).await?;
            if let Some(read) = self.ahead.stretch_came(&page, stretch) {
                return Ok(read);
            }
        }
        let read = self.lines(&page, progress).await?;
        self.ahead.came(&page, &read);
        Ok(read)
    }

    async fn lines(
        self: &Arc<Self>,
        page: &Page<'_>,
        progress: &Progress,
    ) -> Result<Read, SandboxError> {
        let want = ReadWant::Lines {
            offset: page.offset,
            limit: page.limit,
            max_bytes: page.max_bytes,
            max_image_bytes: IMAGE_BYTES,
        };
        self.read_as(page.path, want, progress).await
    }

    /// A file's bytes from `offset` on, `limit` at most; or a directory's entries.
    pub async fn bytes(
        self: &Arc<Self>,
        path: &str,
        offset: u64,
        limit: u64,
        progress: &Progress,
    ) -> Result<Read, SandboxError> {
        self.read_as(path, ReadWant::Bytes { offset, limit }, progress)
            .await
    }

    async fn read_as(
        self: &Arc<Self>,
        path: &str,
        want: ReadWant,
        progress: &Progress,
    ) -> Result<Read, SandboxError> {
        let request = Request::Read(ReadRequest {
            path: path.to_owned(),
            user: User::Root,
            want,
        });
        match self.request(&request, Bytes::new(), progress).await? {
            (
                Report::Read(ReadReport {
                    path,
                    size,
                    content,
                    notes,
                }),
                data,
            ) => Ok(Read {
                path,
                size,
                content,
                data,
                notes,
            }),
            (other, _) => Err(unexpected("read", &other).into()),
        }
    }

    /// Writes a file, atomically where that can be, or adds to it.
    pub async fn write(
        self: &Arc<Self>,
        write: Write,
        progress: &Progress,
    ) -> Result<Written, SandboxError> {
        let request = Request::Write(WriteRequest {
            path: write.path,
            user: write.user,
            mode: write.mode,
            append: write.append,
            bytes: write.content.len() as u64,
        });
        match self.request(&request, write.content, progress).await? {
            (Report::Write { path, bytes, notes }, _) => Ok(Written { path, bytes, notes }),
            (other, _) => Err(unexpected("write", &other).into()),
        }
    }

    /// Replaces text in a file.
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
