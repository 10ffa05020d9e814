//! Read-ahead: pages of a text that are read in quick succession are fetched several at once.
//!
//! A request to a translated guest takes as long as the transfer of many pages, so a program that reads a file page by
//! page would mostly wait. If a page is asked for within [`FRESH`] of the one before it, a stretch of [`PAGES`] pages is
//! fetched; while they are handed out, the next stretch is fetched. The cache is used for that time only, and emptied by
//! every request that may change a file. A model pauses longer between its calls, so its pages always come from the file.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use snowglobe_init::wire::ReadContent;
use tokio::task::JoinHandle;

use super::content::Read;

/// How long a fetched stretch may be used; also how soon the next page has to be asked for.
const FRESH: Duration = Duration::from_secs(1);

/// Pages in a stretch.
const PAGES: u64 = 16;

/// A page that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page<'a> {
    pub(super) path: &'a str,
    /// The first line, from 1.
    pub(super) offset: u64,
    /// How many lines at most.
    pub(super) limit: u64,
    /// How many bytes at most.
    pub(super) max_bytes: u64,
}

impl Page<'_> {
    /// The stretch that begins with this page.
    pub(super) fn stretch(&self) -> Self {
        Self {
            limit: self.limit.saturating_mul(PAGES),
            max_bytes: self.max_bytes.saturating_mul(PAGES),
            ..self.clone()
        }
    }

    /// How many bytes and lines of `text`, which begins with this page, belong to it; only whole lines. None if not
    /// even one line fits.
    fn of(&self, text: &[u8]) -> Option<(usize, u64)> {
        let (mut bytes, mut lines) = (0, 0);
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if lines == self.limit || (bytes + line.len()) as u64 > self.max_bytes {
                break;
            }
            bytes += line.len();
            lines += 1;
        }
        (lines > 0).then_some((bytes, lines))
    }
}

/// A cached stretch.
#[derive(Debug)]
struct Stretch {
    path: String,
    /// Its first line.
    offset: u64,
    /// Only lines after this one are used: a caller that asks for the same page again wants to see the file as it is.
    after: u64,
    text: Read,
    since: Instant,
}

impl Stretch {
    /// The cached text from a line on; none if that line is not cached.
    fn from(&self, offset: u64) -> Option<Bytes> {
        if offset <= self.after {
            return None;
        }
        let skipped = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        let start = match skipped.checked_sub(1) {
            Some(ends) => memchr::memchr_iter(b'\n', &self.text.data).nth(ends)? + 1,
            None => 0,
        };
        Some(self.text.data.slice(start..))
    }

    /// The first line after the stretch; none at the end of the file.
    fn next(&self) -> Option<u64> {
        match self.text.content {
            ReadContent::Text { next_offset, .. } => next_offset,
            _ => None,
        }
    }
}

/// A stretch that is being fetched.
#[derive(Debug)]
pub(super) struct Fetching {
    /// The number of changes when the fetch began.
    changes: u64,
    since: Instant,
    task: JoinHandle<Option<Read>>,
}

/// Where a page comes from that source the last one.
#[derive(Debug)]
pub(super) enum Source {
    /// It is cached.
    Cached(Read),
    /// It is being fetched.
    Fetching(Fetching),
    /// It has to be fetched, with the pages after it.
    Guest,
}

#[derive(Debug, Default)]
struct State {
    /// The number of requests so far that may have changed a file.
    changes: u64,
    cached: Option<Stretch>,
    /// The stretch after the cached one.
    fetching: Option<Fetching>,
}

/// A sandbox's read-ahead cache.
#[derive(Debug, Default)]
pub(super) struct ReadAhead(Mutex<State>);

/// Held while a request runs that may change a file. What is fetched before it ends is not used.
#[derive(Debug)]
pub(super) struct Changing<'a>(&'a ReadAhead);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}

impl ReadAhead {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the cache, and discards what is being fetched.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        *state = State {
            changes: state.changes + 1,
            ..State::default()
        };
    }

    /// Empties the cache now and when the guard is dropped.
    pub(super) fn changing(&self) -> Changing<'_> {
        self.forget();
        Changing(self)
    }

    /// The number of changes, to be taken before a fetch and given back with its result.
    pub(super) fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Where this page comes from; none if it does not follow the last one in time.
    pub(super) fn source(&self, page: &Page) -> Option<Source> {
        let mut state = self.state();
        let cached = state.cached.as_mut()?;
        if cached.path != page.path || cached.since.elapsed() > FRESH {
            return None;
        }
        let text = cached.from(page.offset)?;
        if let Some(read) = part(page, &cached.text, text) {
            cached.after = page.offset;
            return Some(Source::Cached(read));
        }
        Some(match state.fetching.take() {
            Some(fetching) => Source::Fetching(fetching),
            None => Source::Guest,
        })
    }

    /// The stretch to fetch next; none at the end of the file, or if one is being fetched.
    pub(super) fn next<'a>(&self, page: &Page<'a>) -> Option<Page<'a>> {
        let state = self.state();
        let cached = state.cached.as_ref().filter(|_| state.fetching.is_none())?;
        let offset = cached.next()?;
        (cached.path == page.path).then(|| Page {
            offset,
            ..page.stretch()
        })
    }

    /// Notes that the next stretch is being fetched.
    pub(super) fn fetching(&self, changes: u64, task: JoinHandle<Option<Read>>) {
        let mut state = self.state();
        if state.changes == changes {
            state.fetching = Some(Fetching {
                changes,
                since: Instant::now(),
                task,
            });
        }
    }

    /// Waits for the stretch that is being fetched, and joins it with the cached beginning of this page.
    pub(super) async fn join(&self, page: &Page<'_>, fetching: Fetching) {
        let next = fetching.task.await.ok().flatten();
        let mut state = self.state();
        if state.changes != fetching.changes {
            return;
        }
        let joined = next.filter(dividable).and_then(|next| {
            let cached = state.cached.take()?;
            let rest = cached.from(page.offset)?;
            let mut data = BytesMut::with_capacity(rest.len() + next.data.len());
            data.extend_from_slice(&rest);
            data.extend_from_slice(&next.data);
            Some(Stretch {
                offset: page.offset,
                text: Read {
                    data: data.freeze(),
                    ..next
                },
                since: cached.since.min(fetching.since),
                ..cached
            })
        });
        state.cached = joined;
    }

    /// Caches what was fetched, unless something has changed since.
    pub(super) fn store(&self, changes: u64, page: &Page, text: &Read) {
        let mut state = self.state();
        if state.changes != changes {
            return;
        }
        state.fetching = None;
        state.cached = dividable(text).then(|| Stretch {
            path: page.path.to_owned(),
            offset: page.offset,
            after: page.offset,
            text: text.clone(),
            since: Instant::now(),
        });
    }
}

/// Whether a stretch can be handed out in pages: a note may be about any of its lines.
fn dividable(read: &Read) -> bool {
    read.notes.is_empty() && matches!(read.content, ReadContent::Text { cut: false, .. })
}

/// The first page of a stretch; none if the stretch can't be divided and the page has to be fetched by itself.
pub(super) fn first(page: &Page, stretch: &Read) -> Option<Read> {
    let dividable = dividable(stretch).then_some(stretch)?;
    part(page, dividable, dividable.data.clone())
}

/// The page at the beginning of `text`, which is the rest of the cached stretch. None if the page goes on beyond the
/// stretch, or not even a line fits.
fn part(page: &Page, cached: &Read, text: Bytes) -> Option<Read> {
    let ReadContent::Text {
        total_lines,
        next_offset,
        cut: false,
    } = cached.content
    else {
        return None;
    };
    let (bytes, lines) = page.of(&text)?;
    let ends = bytes == text.len();
    if ends && next_offset.is_some() {
        return None;
    }
    Some(Read {
        content: ReadContent::Text {
            total_lines,
            next_offset: (!ends).then_some(page.offset + lines),
            cut: false,
        },
        data: text.slice(..bytes),
        ..cached.clone()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The guest's answer: as many whole lines as fit, or the first one cut.
    fn guest(text: &str, page: &Page) -> Read {
        let total = text.split_inclusive('\n').count() as u64;
        let from: String = text
            .split_inclusive('\n')
            .skip(page.offset as usize - 1)
            .collect();
        let (bytes, lines, cut) = match page.of(from.as_bytes()) {
            Some((bytes, lines)) => (bytes, lines, false),
            None => (from.len().min(page.max_bytes as usize), 1, !from.is_empty()),
        };
        let next = page.offset + lines;
        Read {
            path: page.path.to_owned(),
            size: text.len() as u64,
            content: ReadContent::Text {
                total_lines: Some(total),
                next_offset: (next <= total).then_some(next),
                cut,
            },
            data: Bytes::copy_from_slice(&from.as_bytes()[..bytes]),
            notes: Vec::new(),
        }
    }

    /// Reads as [`super::Sandbox::read`] does; notes the first line of each request.
    async fn read(cache: &ReadAhead, text: &str, page: &Page<'_>, asked: &mut Vec<u64>) -> Read {
        while let Some(source) = cache.source(page) {
            match source {
                Source::Cached(read) => {
                    if let Some(next) = cache.next(page) {
                        asked.push(next.offset);
                        let stretch = guest(text, &next);
                        cache.fetching(cache.changes(), tokio::spawn(async { Some(stretch) }));
                    }
                    return read;
                }
                Source::Fetching(fetching) => cache.join(page, fetching).await,
                Source::Guest => {
                    asked.push(page.offset);
                    let stretch = guest(text, &page.stretch());
                    cache.store(cache.changes(), page, &stretch);
                    match first(page, &stretch) {
                        Some(read) => return read,
                        None => break,
                    }
                }
            }
        }
        asked.push(page.offset);
        let read = guest(text, page);
        cache.store(cache.changes(), page, &read);
        read
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    }

    proptest! {
        #[test]
        fn pages_are_those_that_the_guest_would_send(
            lines in prop::collection::vec("[ab]{0,12}\n", 0..200),
            end in "[ab]{0,3}",
            limit in 1..20u64,
            max_bytes in 10..60u64,
            // Lines at the end of a page that the reader does not show, and asks for again.
            unshown in prop::collection::vec(0..3u64, 1..8),
        ) {
            let text = lines.concat() + &end;
            let cache = ReadAhead::default();
            let (mut offset, mut asked) = (1, Vec::new());
            let runtime = runtime();
            for unshown in unshown.iter().cycle() {
                let page = Page { path: "f", offset, limit, max_bytes };
                let ours = runtime.block_on(read(&cache, &text, &page, &mut asked));
                let theirs = guest(&text, &page);
                prop_assert_eq!(&ours.data, &theirs.data);
                prop_assert_eq!(&ours.content, &theirs.content);
                match ours.content {
                    ReadContent::Text { next_offset: Some(next), .. } => {
                        offset = next.saturating_sub(*unshown).max(offset + 1);
                    }
                    _ => break,
                }
            }
        }
    }

    const PAGE: Page = Page {
        path: "f",
        offset: 1,
        limit: 10,
        max_bytes: 1000,
    };

    #[tokio::test]
    async fn what_follows_is_under_way_before_it_is_asked_for() {
        let text = "line\n".repeat(1000);
        let cache = ReadAhead::default();
        let page = |offset| Page { offset, ..PAGE };
        let mut asked = Vec::new();
        for n in 0..40 {
            read(&cache, &text, &page(1 + n * 9), &mut asked).await;
        }
        assert_eq!(asked, [1, 10, 170, 330, 490]);
        assert!(cache.source(&page(352)).is_none(), "asked for again");
        assert!(cache.source(&page(700)).is_none(), "it does not follow");
        cache.forget();
        assert!(cache.source(&page(361)).is_none());
    }

    #[tokio::test]
    async fn what_was_under_way_before_a_change_is_not_believed() {
        let (old, new) = ("old\n".repeat(1000), "new\n".repeat(1000));
        let cache = ReadAhead::default();
        let page = |offset| Page { offset, ..PAGE };
        let mut asked = Vec::new();
        for n in 0..3 {
            read(&cache, &old, &page(1 + n * 10), &mut asked).await;
        }
        let changes = cache.changes();
        let changing = cache.changing();
        cache.store(changes, &page(31), &guest(&old, &page(31)));
        assert!(cache.source(&page(41)).is_none());
        let changes = cache.changes();
        drop(changing);
        cache.store(changes, &page(31), &guest(&old, &page(31)));
        cache.fetching(changes, tokio::spawn(async { None }));
        assert!(cache.source(&page(41)).is_none());
        let read = read(&cache, &new, &page(31), &mut asked).await;
        assert!(read.data.starts_with(b"new"));
    }

    #[tokio::test]
    async fn a_stretch_that_does_not_come_is_asked_for() {
        let text = "line\n".repeat(1000);
        let cache = ReadAhead::default();
        let page = |offset| Page { offset, ..PAGE };
        cache.store(0, &page(1), &guest(&text, &page(1).stretch()));
        assert!(matches!(cache.source(&page(150)), Some(Source::Cached(_))));
        cache.fetching(0, tokio::spawn(async { None }));
        let Some(Source::Fetching(fetching)) = cache.source(&page(161)) else {
            panic!("it is under way");
        };
        cache.join(&page(161), fetching).await;
        assert!(cache.source(&page(161)).is_none());
    }
}
