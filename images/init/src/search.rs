//! Searching files as ripgrep does, with ripgrep's own parts: so it works in an image that has none.
//!
//! Ignore files count, hidden and binary files don't; files come sorted by path, so that the same search gives the
//! same lines. Bounded three ways: lines, bytes, time. What was left out is always said.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkMatch};
use ignore::WalkBuilder;
use ignore::overrides::{Override, OverrideBuilder};

use crate::wire::{ErrorKind, FoundLine, Report, SearchReport, SearchRequest, WireError};

/// How long a search may take.
const LONGEST: Duration = Duration::from_secs(40);

/// How much of one line is shown, in bytes.
const LINE: usize = 400;

/// Directories of the kernel's, which never end or hold nothing to be found.
const KERNELS_OWN: &[&str] = &["/proc", "/sys", "/dev"];

fn invalid(message: String) -> WireError {
    WireError {
        kind: ErrorKind::InvalidRequest,
        message,
    }
}

/// Searches; `send` takes the lines found, one JSON object a line, and says whether more is wanted.
/// Runs on the user's thread.
pub(crate) fn search(
    workspace: &Path,
    request: &SearchRequest,
    send: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<Report, WireError> {
    let root = workspace.join(&request.path);
    let meta = std::fs::metadata(&root).map_err(|e| WireError {
        kind: match e.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Other,
        },
        message: format!("search {}: {}", root.display(), crate::enter::plain(&e)),
    })?;
    let matcher = matcher(request)?;
    let mut found = Found {
        send,
        shown: PathBuf::new(),
        limit: request.limit,
        room: request.max_bytes,
        until: Instant::now() + LONGEST,
        report: SearchReport::default(),
        stop: false,
    };
    let mut searcher = SearcherBuilder::new()
        .line_number(true)
        .before_context(request.context as usize)
        .after_context(request.context as usize)
        .binary_detection(BinaryDetection::quit(0))
        .build();
    for entry in walk(&root, meta.is_dir(), overrides(&root, request)?) {
        if found.over() {
            break;
        }
        // What may not be read is passed over, as ripgrep does, but counted.
        let Ok(entry) = entry else {
            found.report.unreadable += 1;
            continue;
        };
        let file = entry.file_type().is_some_and(|kind| kind.is_file())
            || (entry.depth() == 0 && meta.is_file());
        if !file {
            continue;
        }
        found.shown = entry.path().to_owned();
        let before = found.report.lines;
        found.report.searched += 1;
        if searcher
            .search_path(&matcher, entry.path(), &mut found)
            .is_err()
        {
            found.report.unreadable += 1;
        }
        found.report.files += u64::from(found.report.lines > before);
    }
    Ok(Report::Search(found.report))
}

fn matcher(request: &SearchRequest) -> Result<RegexMatcher, WireError> {
    RegexMatcherBuilder::new()
        .case_insensitive(request.ignore_case)
        .fixed_strings(request.literal)
        .line_terminator(Some(b'\n'))
        .build(&request.pattern)
        .map_err(|e| {
            invalid(format!(
                "search for {:?}: {e}\nset `literal` to search for the text itself",
                request.pattern
            ))
        })
}

fn overrides(root: &Path, request: &SearchRequest) -> Result<Override, WireError> {
    let mut overrides = OverrideBuilder::new(root);
    for glob in &request.globs {
        overrides
            .add(glob)
            .map_err(|e| invalid(format!("use the glob {glob:?}: {e}")))?;
    }
    overrides
        .build()
        .map_err(|e| invalid(format!("use the globs {:?}: {e}", request.globs)))
}

fn walk(root: &Path, dir: bool, overrides: Override) -> ignore::Walk {
    let within: Vec<&str> = KERNELS_OWN
        .iter()
        .copied()
        .filter(|own| !root.starts_with(own))
        .collect();
    WalkBuilder::new(root)
        // A file that was named is searched, whatever its name.
        .hidden(dir)
        .overrides(overrides)
        .sort_by_file_path(Path::cmp)
        .filter_entry(move |entry| !within.iter().any(|own| entry.path() == Path::new(own)))
        .build()
}

struct Found<'a> {
    send: &'a mut dyn FnMut(Vec<u8>) -> bool,
    shown: PathBuf,
    limit: u64,
    room: u64,
    until: Instant,
    report: SearchReport,
    stop: bool,
}

impl Found<'_> {
    /// Whether nothing more is to be looked for.
    fn over(&mut self) -> bool {
        if Instant::now() >= self.until {
            self.report.timed_out = true;
            self.stop = true;
        }
        self.stop
    }

    fn pass_on(&mut self, number: Option<u64>, bytes: &[u8], is_match: bool) -> bool {
        if is_match && self.report.lines >= self.limit {
            self.report.truncated = true;
            self.stop = true;
            return false;
        }
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(LINE)]).into_owned();
        if bytes.len() > LINE {
            text.push('…');
        }
        let line = FoundLine {
            path: self.shown.to_string_lossy().into_owned(),
            line: number.unwrap_or(0),
            text: text.trim_end_matches('\r').to_owned(),
            context: !is_match,
        };
        let mut json = serde_json::to_vec(&line).unwrap_or_default();
        json.push(b'\n');
        if json.len() as u64 > self.room {
            self.report.truncated = true;
            self.stop = true;
            return false;
        }
        self.room -= json.len() as u64;
        self.report.lines += u64::from(is_match);
        if !(self.send)(json) {
            self.stop = true;
        }
        !self.over()
    }
}

impl Sink for Found<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> io::Result<bool> {
        Ok(self.pass_on(found.line_number(), found.bytes(), true))
    }

    fn context(&mut self, _: &Searcher, found: &SinkContext<'_>) -> io::Result<bool> {
        Ok(self.pass_on(found.line_number(), found.bytes(), false))
    }
}
