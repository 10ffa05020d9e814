//! Pages of a text that follow each other within a moment are fetched several at once.
//!
//! A question to a translated guest takes as long as many pages do, so a program that goes through a file page by page would
//! mostly wait. A call for the page after the last one within [`MOMENT`] gets it out of a stretch of [`PAGES`], and
//! so the ones that follow; as soon as one of them is given, the next stretch is on its way. What was fetched is
//! believed for a moment only, and not once anything was asked of the guest that may change a file; what a model reads,
//! with its pauses, always comes from the file.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use snowglobe_init::wire::ReadContent;
use tokio::task::JoinHandle;

use super::content::Read;

/// How soon the next page has to be asked for, and how long what was fetched is believed.
const MOMENT: Duration = Duration::from_secs(1);

/// How many pages are fetched at once.
const PAGES: u64 = 16;

/// Which page is wanted.
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
    /// The stretch of pages that begins with this one.
    pub(super) fn stretch(&self) -> Self {
        Self {
            limit: self.limit.saturating_mul(PAGES),
            max_bytes: self.max_bytes.saturating_mul(PAGES),
            ..self.clone()
        }
    }

    /// How long this page is of a text that begins with it: whole lines, in bytes, and how many. Nothing if not
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

/// What was fetched of a text.
#[derive(Debug)]
struct Fetched {
    path: String,
    /// The line that it begins with.
    offset: u64,
    /// Only what is after this line is given: who asks for the same page again wants to see it anew.
    after: u64,
    text: Read,
    since: Instant,
}

impl Fetched {
    /// What was fetched of the text from a line on; nothing if it is none of these.
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

    /// The line that the file goes on with; nothing if this is its end.
    fn next(&self) -> Option<u64> {
        match self.text.content {
            ReadContent::Text { next_offset, .. } => next_offset,
            _ => None,
        }
    }
}

/// A stretch under way.
#[derive(Debug)]
pub(super) struct Coming {
    /// How often something had changed when it was asked for.
    changes: u64,
    since: Instant,
    task: JoinHandle<Option<Read>>,
}

/// Where a page that follows the last one is to come from.
#[derive(Debug)]
pub(super) enum Follows {
    /// It was fetched.
    Here(Read),
    /// It is under way.
    Coming(Coming),
    /// From the guest, with those after it.
    Stretch,
}

#[derive(Debug, Default)]
struct State {
    /// How often something was asked of the guest that may change a file.
    changes: u64,
    fetched: Option<Fetched>,
    /// What follows the fetched.
    coming: Option<Coming>,
}

/// What a sandbox fetched ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<State>);

/// Something is under way that may change a file: what is fetched before it ends is believed by nobody.
#[derive(Debug)]
pub(super) struct Changing<'a>(&'a Ahead);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}

impl Ahead {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is believed any more, not even what is under way.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        *state = State {
            changes: state.changes + 1,
            ..State::default()
        };
    }

    /// To be held while something may change a file.
    pub(super) fn changing(&self) -> Changing<'_> {
        self.forget();
        Changing(self)
    }

    /// How often something may have changed; what is fetched from now on is kept with it.
    pub(super) fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Where this page comes from, if it follows the last one within a moment.
    pub(super) fn follows(&self, page: &Page) -> Option<Follows> {
        let mut state = self.state();
        let fetched = state.fetched.as_mut()?;
        if fetched.path != page.path || fetched.since.elapsed() > MOMENT {
            return None;
        }
        let text = fetched.from(page.offset)?;
        if let Some(read) = part(page, &fetched.text, text) {
            fetched.after = page.offset;
            return Some(Follows::Here(read));
        }
        Some(match state.coming.take() {
            Some(coming) => Follows::Coming(coming),
            None => Follows::Stretch,
        })
    }

    /// The page to ask for before it is wanted, with those after it; nothing if the file ends, or one is under way.
    pub(super) fn next<'a>(&self, page: &Page<'a>) -> Option<Page<'a>> {
        let state = self.state();
        let fetched = state.fetched.as_ref().filter(|_| state.coming.is_none())?;
        let offset = fetched.next()?;
        (fetched.path == page.path).then(|| Page {
            offset,
            ..page.stretch()
        })
    }

    /// The next stretch is under way.
    pub(super) fn comes(&self, changes: u64, task: JoinHandle<Option<Read>>) {
        let mut state = self.state();
        if state.changes == changes {
            state.coming = Some(Coming {
                changes,
                since: Instant::now(),
                task,
            });
        }
    }

    /// The stretch that was under way came: with the beginning of this page, which was here, it can be given.
    pub(super) async fn arrive(&self, page: &Page<'_>, coming: Coming) {
        let next = coming.task.await.ok().flatten();
        let mut state = self.state();
        if state.changes != coming.changes {
            return;
        }
        let joined = next.filter(dividable).and_then(|next| {
            let fetched = state.fetched.take()?;
            let rest = fetched.from(page.offset)?;
            let mut data = BytesMut::with_capacity(rest.len() + next.data.len());
            data.extend_from_slice(&rest);
            data.extend_from_slice(&next.data);
            Some(Fetched {
                offset: page.offset,
                text: Read {
                    data: data.freeze(),
                    ..next
                },
                since: fetched.since.min(coming.since),
                ..fetched
            })
        });
        state.fetched = joined;
    }

    /// What was asked for when so often something had changed; the next page may follow it.
    pub(super) fn came(&self, changes: u64, page: &Page, text: &Read) {
        let mut state = self.state();
        if state.changes != changes {
            return;
        }
        state.coming = None;
        state.fetched = dividable(text).then(|| Fetched {
            path: page.path.to_owned(),
            offset: page.offset,
            after: page.offset,
            text: text.clone(),
            since: Instant::now(),
        });
    }
}

/// Whether what was fetched can be given in pages: a note may be about any of its lines.
fn dividable(read: &Read) -> bool {
    read.notes.is_empty() && matches!(read.content, ReadContent::Text { cut: false, .. })
}

/// The first page of a stretch. Nothing if it can't be divided, and the page has to be asked for by itself.
pub(super) fn first(page: &Page, stretch: &Read) -> Option<Read> {
    let dividable = dividable(stretch).then_some(stretch)?;
    part(page, dividable, dividable.data.clone())
}

/// The page that `text` begins with, which is what was fetched of the file from there on. Nothing if more of the file
/// belongs to it, or not even a line fits.
fn part(page: &Page, fetched: &Read, text: Bytes) -> Option<Read> {
    let ReadContent::Text {
        total_lines,
        next_offset,
        cut: false,
    } = fetched.content
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
        ..fetched.clone()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the guest answers: whole lines as they fit, or the first one cut.
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

    /// As [`super::Sandbox::read`] does it; notes the lines that were asked for.
    async fn read(ahead: &Ahead, text: &str, page: &Page<'_>, asked: &mut Vec<u64>) -> Read {
        while let Some(follows) = ahead.follows(page) {
            match follows {
                Follows::Here(read) => {
                    if let Some(next) = ahead.next(page) {
                        asked.push(next.offset);
                        let stretch = guest(text, &next);
                        ahead.comes(ahead.changes(), tokio::spawn(async { Some(stretch) }));
                    }
                    return read;
                }
                Follows::Coming(coming) => ahead.arrive(page, coming).await,
                Follows::Stretch => {
                    asked.push(page.offset);
                    let stretch = guest(text, &page.stretch());
                    ahead.came(ahead.changes(), page, &stretch);
                    match first(page, &stretch) {
                        Some(read) => return read,
                        None => break,
                    }
                }
            }
        }
        asked.push(page.offset);
        let read = guest(text, page);
        ahead.came(ahead.changes(), page, &read);
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
            // How many lines of a page its reader does not show, and asks for again.
            unshown in prop::collection::vec(0..3u64, 1..8),
        ) {
            let text = lines.concat() + &end;
            let ahead = Ahead::default();
            let (mut offset, mut asked) = (1, Vec::new());
            let runtime = runtime();
            for unshown in unshown.iter().cycle() {
                let page = Page { path: "f", offset, limit, max_bytes };
                let ours = runtime.block_on(read(&ahead, &text, &page, &mut asked));
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
        let ahead = Ahead::default();
        let page = |offset| Page { offset, ..PAGE };
        let mut asked = Vec::new();
        for n in 0..40 {
            read(&ahead, &text, &page(1 + n * 9), &mut asked).await;
        }
        assert_eq!(asked, [1, 10, 170, 330, 490]);
        assert!(ahead.follows(&page(352)).is_none(), "asked for again");
        assert!(ahead.follows(&page(700)).is_none(), "it does not follow");
        ahead.forget();
        assert!(ahead.follows(&page(361)).is_none());
    }

    #[tokio::test]
    async fn what_was_under_way_before_a_change_is_not_believed() {
        let (old, new) = ("old\n".repeat(1000), "new\n".repeat(1000));
        let ahead = Ahead::default();
        let page = |offset| Page { offset, ..PAGE };
        let mut asked = Vec::new();
        for n in 0..3 {
            read(&ahead, &old, &page(1 + n * 10), &mut asked).await;
        }
        let changes = ahead.changes();
        let changing = ahead.changing();
        ahead.came(changes, &page(31), &guest(&old, &page(31)));
        assert!(ahead.follows(&page(41)).is_none());
        let changes = ahead.changes();
        drop(changing);
        ahead.came(changes, &page(31), &guest(&old, &page(31)));
        ahead.comes(changes, tokio::spawn(async { None }));
        assert!(ahead.follows(&page(41)).is_none());
        let read = read(&ahead, &new, &page(31), &mut asked).await;
        assert!(read.data.starts_with(b"new"));
    }

    #[tokio::test]
    async fn a_stretch_that_does_not_come_is_asked_for() {
        let text = "line\n".repeat(1000);
        let ahead = Ahead::default();
        let page = |offset| Page { offset, ..PAGE };
        ahead.came(0, &page(1), &guest(&text, &page(1).stretch()));
        assert!(matches!(ahead.follows(&page(150)), Some(Follows::Here(_))));
        ahead.comes(0, tokio::spawn(async { None }));
        let Some(Follows::Coming(coming)) = ahead.follows(&page(161)) else {
            panic!("it is under way");
        };
        ahead.arrive(&page(161), coming).await;
        assert!(ahead.follows(&page(161)).is_none());
    }
}
