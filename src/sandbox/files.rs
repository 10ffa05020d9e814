//! Files in the guest: reading, writing, replacing text, searching.

use std::sync::Arc;

use bytes::Bytes;
use snowglobe_init::wire::{
    self, EditReport, EditRequest, FoundLine, ReadReport, ReadRequest, ReadWant, Report, Request,
    SearchReport, SearchRequest, User, WriteRequest,
};

use super::content::{Read, Write, Written};
use super::read_ahead::{self, Page, Source};
use super::{Sandbox, SandboxError};
use crate::guest::{GuestError, unexpected};
use crate::progress::Progress;
use crate::timeline::{Event, bounded};

/// The longest image file that the guest sends, in bytes. Clients get a smaller picture if that is too long for them.
const IMAGE_BYTES: u64 = 20 << 20;

impl Sandbox {
    /// Reads lines (from 1) of a text, at most `max_bytes` of them; or an image; or a directory's entries.
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
        while let Some(source) = self.read_ahead.source(&page) {
            match source {
                Source::Cached(read) if self.published.running().is_some() => {
                    self.prefetch(&page);
                    return Ok(read);
                }
                Source::Cached(_) => break,
                Source::Fetching(fetching) => self.read_ahead.join(&page, fetching).await,
                Source::Guest => {
                    let changes = self.read_ahead.changes();
                    let stretch = self.lines(&page.stretch(), progress).await?;
                    self.read_ahead.store(changes, &page, &stretch);
                    match read_ahead::first(&page, &stretch) {
                        Some(read) => return Ok(read),
                        None => break,
                    }
                }
            }
        }
        let changes = self.read_ahead.changes();
        let read = self.lines(&page, progress).await?;
        self.read_ahead.store(changes, &page, &read);
        Ok(read)
    }

    /// Fetches the next stretch in the background.
    fn prefetch(self: &Arc<Self>, page: &Page) {
        let changes = self.read_ahead.changes();
        let Some(next) = self.read_ahead.next(page) else {
            return;
        };
        let (sandbox, request) = (self.clone(), lines(&next));
        let fetch = async move {
            let answer = sandbox.peek(&request).await?;
            found(answer).ok()
        };
        self.read_ahead.fetching(changes, tokio::spawn(fetch));
    }

    async fn lines(
        self: &Arc<Self>,
        page: &Page<'_>,
        progress: &Progress,
    ) -> Result<Read, SandboxError> {
        found(self.ask(&lines(page), Bytes::new(), progress).await?)
    }

    /// A file's bytes from `offset` on, `limit` at most; or a directory's entries.
    pub async fn bytes(
        self: &Arc<Self>,
        path: &str,
        offset: u64,
        limit: u64,
        progress: &Progress,
    ) -> Result<Read, SandboxError> {
        let request = read_as(path, ReadWant::Bytes { offset, limit });
        found(self.ask(&request, Bytes::new(), progress).await?)
    }

    /// Replaces a file, atomically if possible, or appends to it.
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
            (Report::Write { path, bytes, notes }, _) => {
                self.note_write(&path, bytes);
                Ok(Written { path, bytes, notes })
            }
            (other, _) => Err(unexpected("write", &other).into()),
        }
    }

    fn note_write(&self, path: &str, bytes: u64) {
        let path = bounded(path);
        self.timeline.add(Event::Wrote { path, bytes });
    }

    /// The number of requests so far that may have changed a file.
    pub fn file_requests(&self) -> u64 {
        self.read_ahead.changes()
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
            (Report::Edit(report), _) => {
                self.timeline.add(Event::Edited {
                    path: bounded(&report.path),
                    replacements: report.replacements,
                });
                Ok(report)
            }
            (other, _) => Err(unexpected("edit", &other).into()),
        }
    }

    /// Searches files; the lines come in the order of the files' paths.
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
        let lines = wire::lines::decode(&data).map_err(|error| GuestError::Protocol {
            operation: "search",
            message: error.to_string(),
        })?;
        Ok((report, lines))
    }
}

fn lines(page: &Page) -> Request {
    let want = ReadWant::Lines {
        offset: page.offset,
        limit: page.limit,
        max_bytes: page.max_bytes,
        max_image_bytes: IMAGE_BYTES,
    };
    read_as(page.path, want)
}

fn read_as(path: &str, want: ReadWant) -> Request {
    Request::Read(ReadRequest {
        path: path.to_owned(),
        user: User::Root,
        want,
    })
}

/// The result of a [`read_as`] request.
fn found((report, data): (Report, Bytes)) -> Result<Read, SandboxError> {
    match report {
        Report::Read(ReadReport {
            path,
            size,
            content,
            notes,
        }) => Ok(Read {
            path,
            size,
            content,
            data,
            notes,
        }),
        other => Err(unexpected("read", &other).into()),
    }
}
