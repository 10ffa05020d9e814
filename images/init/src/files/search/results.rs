//! Sending matching lines, within the bounds on lines, bytes and time.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use grep_matcher::Matcher;
use grep_regex::RegexMatcher;
use grep_searcher::{Searcher, Sink, SinkContext, SinkMatch};

use crate::files::excerpt::{self, excerpt};
use crate::wire::{self, FoundLine, SearchReport};

/// How many matches of one line its excerpt considers.
const MATCHES: usize = 1000;

/// The results of a search.
pub(super) struct Results<'a> {
    pub(super) send: &'a mut dyn FnMut(Vec<u8>) -> bool,
    pub(super) matcher: &'a RegexMatcher,
    /// The file that is searched.
    pub(super) file: PathBuf,
    pub(super) limit: u64,
    pub(super) room: u64,
    pub(super) until: Instant,
    pub(super) report: SearchReport,
    /// Whether the search is over.
    pub(super) stop: bool,
    /// Whether the file has binary content after its beginning.
    pub(super) binary: bool,
}

impl Results<'_> {
    /// Whether the search is over.
    pub(super) fn over(&mut self) -> bool {
        if Instant::now() >= self.until {
            self.report.timed_out = true;
            self.stop = true;
        }
        self.stop
    }

    fn full(&mut self) -> bool {
        self.report.truncated = true;
        self.stop = true;
        false
    }

    fn pass_on(
        &mut self,
        number: u64,
        line: &[u8],
        matches: &[Range<usize>],
        context: bool,
    ) -> io::Result<bool> {
        if !context && self.report.lines >= self.limit {
            return Ok(self.full());
        }
        let text = String::from_utf8_lossy(line);
        // Replacing invalid bytes changes offsets.
        let shown = |at: usize| String::from_utf8_lossy(&line[..at]).len().min(text.len());
        let moved: Vec<Range<usize>> = matches
            .iter()
            .map(|found| match text.len() == line.len() {
                true => found.clone(),
                false => shown(found.start)..shown(found.end),
            })
            .collect();
        let line = FoundLine {
            path: self.file.to_string_lossy().into_owned(),
            line: number,
            text: excerpt(&text, &moved),
            context,
        };
        let json = wire::lines::encode(&line)?;
        if json.len() as u64 > self.room {
            return Ok(self.full());
        }
        self.room -= json.len() as u64;
        self.report.lines += u64::from(!context);
        if !(self.send)(json) {
            self.stop = true;
        }
        Ok(!self.over())
    }

    /// The ranges of the matches in some lines.
    fn matches(&self, found: &SinkMatch<'_>) -> Vec<Range<usize>> {
        let lines = found.bytes_range_in_buffer();
        let mut matches = Vec::new();
        let found_again = self
            .matcher
            .find_iter_at(found.buffer(), lines.start, |one| {
                let within = one.start() < lines.end && matches.len() < MATCHES;
                if within {
                    matches.push(one.start() - lines.start..one.end().min(lines.end) - lines.start);
                }
                within
            });
        // On an error, which this matcher never gives, the line is shown from its beginning.
        found_again.ok();
        matches
    }
}

/// A line without its end.
fn bare(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

impl Sink for Results<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> io::Result<bool> {
        let long = found.lines().any(|line| line.len() > excerpt::LONGEST);
        let matches = if long {
            self.matches(found)
        } else {
            Vec::new()
        };
        let mut start = 0;
        for (number, line) in (found.line_number().unwrap_or(0)..).zip(found.lines()) {
            let text = bare(line);
            let here: Vec<Range<usize>> = matches
                .iter()
                .filter(|one| one.start < start + text.len() && one.end > start)
                .map(|one| one.start.saturating_sub(start)..(one.end - start).min(text.len()))
                .collect();
            if !self.pass_on(number, text, &here, false)? {
                return Ok(false);
            }
            start += line.len();
        }
        Ok(true)
    }

    fn context(&mut self, _: &Searcher, found: &SinkContext<'_>) -> io::Result<bool> {
        let number = found.line_number().unwrap_or(0);
        self.pass_on(number, bare(found.bytes()), &[], true)
    }

    fn binary_data(&mut self, _: &Searcher, _: u64) -> io::Result<bool> {
        self.binary = true;
        Ok(true)
    }
}
