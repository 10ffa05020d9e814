//! Pages of a text that follow each other within a moment are fetched several at once.
//!
//! A question to a translated guest takes as long as many pages do, so a program that goes through a file page by page would
//! mostly wait. A call for the page after the last one within [`MOMENT`] gets it out of a stretch of [`PAGES`], and
//! so the ones that follow. What was fetched is believed for a moment only, and not once anything else was asked of
//! the guest; what a model reads, with its pauses, always comes from the file.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use snowglobe_init::wire::ReadContent;

use super::Read;

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

/// What was fetched last.
#[derive(Debug)]
struct Fetched {
    path: String,
    /// The line that it begins with.
    offset: u64,
    text: Read,
    since: Instant,
}

impl Fetched {
    /// What was fetched of the text from a line on; nothing if that is not the line after one of these.
    fn from(&self, offset: u64) -> Option<Bytes> {
        let skipped = offset.checked_sub(self.offset).filter(|lines| *lines > 0)?;
        let end = memchr::memchr_iter(b'\n', &self.text.data).nth(skipped as usize - 1)?;
        Some(self.text.data.slice(end + 1..))
    }
}

/// Where a page that follows the last one is to come from.
#[derive(Debug)]
pub(super) enum Follows {
    /// It was fetched.
    Here(Read),
    /// From the guest, with those after it.
    Stretch,
}

/// What a sandbox fetched ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Option<Fetched>>);

impl Ahead {
    fn fetched(&self) -> MutexGuard<'_, Option<Fetched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is believed any more.
    pub(super) fn forget(&self) {
        *self.fetched() = None;
    }

    /// Where this page comes from, if it follows the last one within a moment.
    pub(super) fn follows(&self, page: &Page) -> Option<Follows> {
        let fetched = self.fetched();
        let fetched = fetched.as_ref()?;
        if fetched.path != page.path || fetched.since.elapsed() > MOMENT {
            return None;
        }
        let text = fetched.from(page.offset)?;
        Some(part(page, &fetched.text, text).map_or(Follows::Stretch, Follows::Here))
    }

    /// What was asked for, which the next page may follow.
    pub(super) fn came(&self, page: &Page, text: &Read) {
        // A note may be about any of its lines.
        let plain =
            text.notes.is_empty() && matches!(text.content, ReadContent::Text { cut: false, .. });
        *self.fetched() = plain.then(|| Fetched {
            path: page.path.to_owned(),
            offset: page.offset,
            text: text.clone(),
            since: Instant::now(),
        });
    }

    /// The first page of a stretch. Nothing if it can't be divided, and the page has to be asked for by itself.
    pub(super) fn stretch_came(&self, page: &Page, stretch: Read) -> Option<Read> {
        self.came(page, &stretch);
        if !stretch.notes.is_empty() {
            return None;
        }
        part(page, &stretch, stretch.data.clone())
    }
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

    /// As [`super::Sandbox::read`] does it; counts the questions.
    fn read(ahead: &Ahead, text: &str, page: &Page, asked: &mut usize) -> Read {
        if let Some(follows) = ahead.follows(page) {
            if let Follows::Here(read) = follows {
                return read;
            }
            *asked += 1;
            if let Some(read) = ahead.stretch_came(page, guest(text, &page.stretch())) {
                return read;
            }
        }
        *asked += 1;
        let read = guest(text, page);
        ahead.came(page, &read);
        read
    }

    proptest! {
        #[test]
        fn pages_are_those_that_the_guest_would_send(
            lines in prop::collection::vec("[ab]{0,12}\n", 0..200),
            end in "[ab]{0,3}",
            limit in 1..20u64,
            max_bytes in 10..60u64,
        ) {
            let text = lines.concat() + &end;
            let ahead = Ahead::default();
            let (mut offset, mut asked) = (1, 0);
            loop {
                let page = Page { path: "f", offset, limit, max_bytes };
                let (ours, theirs) = (read(&ahead, &text, &page, &mut asked), guest(&text, &page));
                prop_assert_eq!(&ours.data, &theirs.data);
                prop_assert_eq!(&ours.content, &theirs.content);
                match ours.content {
                    ReadContent::Text { next_offset: Some(next), .. } => offset = next,
                    _ => break,
                }
            }
        }
    }

    #[test]
    fn what_follows_is_fetched_at_once_and_forgotten_at_once() {
        let text = "line\n".repeat(1000);
        let ahead = Ahead::default();
        let page = |offset| Page {
            path: "f",
            offset,
            limit: 10,
            max_bytes: 1000,
        };
        let mut asked = 0;
        // Whoever shows less of a page than came asks for the next one from there.
        for n in 0..17 {
            read(&ahead, &text, &page(1 + n * 9), &mut asked);
        }
        assert_eq!(asked, 2);
        assert!(ahead.follows(&page(1)).is_none(), "the first is read anew");
        assert!(ahead.follows(&page(300)).is_none(), "it does not follow");
        ahead.forget();
        assert!(ahead.follows(&page(154)).is_none());
        read(&ahead, &text, &page(154), &mut asked);
        assert!(matches!(ahead.follows(&page(164)), Some(Follows::Stretch)));
        assert_eq!(asked, 3);
    }
}
