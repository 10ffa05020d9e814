//! Searching files like ripgrep, with its libraries, so that it works in images without ripgrep.
//!
//! Ignored, hidden and binary files are skipped. Files are sorted by path, so the same search gives the same lines. If
//! only hidden or ignored files match a glob or the path, these are searched afterwards. Text in any encoding is searched
//! as UTF-8. Lines, bytes, time and memory are bounded, and the report states what was left out.

mod globs;
mod pattern;
mod results;
mod searched_text;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder};
use ignore::WalkBuilder;

use self::globs::{Choice, Globs};
use self::pattern::Pattern;
use self::results::Results;
use self::searched_text::SearchedText;
use super::{Places, file_error};
use crate::files::encoding::{Content, TextReader};
use crate::wire::{ErrorKind, MAX_SEARCH_TIME, Report, SearchReport, SearchRequest, WireError};

/// The longest search of hidden and ignored files for those that match a glob.
const LONGEST_HIDDEN: Duration = Duration::from_secs(10);

/// How many bytes of one file are held in memory: its longest line, or all of it for a pattern that spans lines.
const MEMORY: usize = 64 << 20;

/// How many files and globs are named in a report.
const NAMED: usize = 5;

/// The kernel's directories, which are endless or hold no text.
const KERNEL_DIRECTORIES: &[&str] = &["/proc", "/sys", "/dev"];

/// Searches files. `send` takes the lines as [`crate::wire::lines`], and returns whether more are wanted. Runs on the
/// user's thread.
pub(crate) fn search(
    places: &Places,
    request: &SearchRequest,
    send: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<Report, WireError> {
    let mut notes = Vec::new();
    let path = match request.path.as_str() {
        "" => places.workspace.clone(),
        path => places.find(path, &mut notes)?,
    };
    let failed = |e: io::Error| file_error("search", &path, &e);
    let root = path.canonicalize().map_err(failed)?;
    let meta = fs::metadata(&root).map_err(failed)?;
    if !meta.is_dir() && !meta.is_file() {
        return Err(WireError::new(
            ErrorKind::WrongKind,
            format!(
                "search {}: it is a special file; expected a file or a directory",
                root.display()
            ),
        ));
    }
    let workspace = &places.workspace;
    let workspace = workspace
        .canonicalize()
        .unwrap_or_else(|_| workspace.to_owned());
    let pattern = Pattern::new(request).map_err(WireError::invalid)?;
    let home = |first: &str| {
        let home = first.strip_prefix('~')?;
        // With such characters it is a pattern, not a name.
        let named = !home.contains(['*', '?', '[', '{', '\\']);
        named.then(|| places.absolute(first).ok()).flatten()
    };
    let globs = Globs::new(&root, &workspace, &home, &request.globs).map_err(WireError::invalid)?;
    let mut search = Search {
        hits: vec![0; globs.len()],
        globs: Arc::new(globs),
        searcher: searcher(request, &pattern),
        keeps_cr: pattern.keeps_cr,
        results: Results {
            send,
            matcher: &pattern.matcher,
            file: PathBuf::new(),
            limit: request.limit,
            room: request.max_bytes,
            until: Instant::now() + MAX_SEARCH_TIME,
            report: SearchReport {
                notes,
                ..SearchReport::default()
            },
            stop: false,
            binary: false,
        },
        root,
        binary: Named::default(),
        too_long: Named::default(),
        encoded: Named::default(),
    };
    if meta.is_file() {
        search.file(&search.root.clone());
    } else {
        search.below();
    }
    Ok(Report::Search(search.report(request, meta.is_file())))
}

fn searcher(request: &SearchRequest, pattern: &Pattern) -> Searcher {
    let context = usize::try_from(request.context).unwrap_or(usize::MAX);
    SearcherBuilder::new()
        .line_number(true)
        .multi_line(pattern.multi_line)
        .before_context(context)
        .after_context(context)
        .binary_detection(BinaryDetection::quit(0))
        // The text has been decoded to UTF-8, without a byte order mark.
        .bom_sniffing(false)
        .heap_limit(Some(MEMORY))
        .build()
}

/// A number of files, and the names of the first ones.
#[derive(Default)]
struct Named {
    names: Vec<String>,
    count: usize,
}

impl Named {
    fn add(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.names.len() < NAMED {
            self.names.push(name());
        }
    }

    /// `a, b and 3 others`.
    fn list(&self) -> String {
        let names = self.names.join(", ");
        match self.count - self.names.len() {
            0 => names,
            1 => format!("{names} and another"),
            more => format!("{names} and {more} others"),
        }
    }
}

struct Search<'a> {
    root: PathBuf,
    globs: Arc<Globs>,
    /// The number of files that each glob matched.
    hits: Vec<u64>,
    searcher: Searcher,
    keeps_cr: bool,
    results: Results<'a>,
    binary: Named,
    too_long: Named,
    encoded: Named,
}

impl Search<'_> {
    /// Searches the files below a directory.
    fn below(&mut self) {
        self.walk(None);
        let unmatched: Vec<usize> = (0..self.globs.len())
            .filter(|at| self.hits[*at] == 0 && self.globs.text(*at).is_some())
            .collect();
        let report = &self.results.report;
        let nothing = report.searched == 0 && report.unreadable == 0 && self.binary.count == 0;
        if self.results.stop || (!nothing && unmatched.is_empty()) {
            return;
        }
        let until = self.results.until;
        self.results.until = until.min(Instant::now() + LONGEST_HIDDEN);
        self.walk(Some(&unmatched));
        if self.results.report.timed_out && Instant::now() < until {
            self.results.report.timed_out = false;
            self.note(format!(
                "hidden and git-ignored files were looked through for {} s only",
                LONGEST_HIDDEN.as_secs()
            ));
        }
        self.results.until = until;
        let found = |at: &usize| self.hits[*at] > 0;
        let (hidden, missing): (Vec<usize>, Vec<usize>) =
            unmatched.iter().partition(|at| found(at));
        for at in hidden.iter().take(NAMED) {
            let glob = self.globs.text(*at).unwrap_or_default();
            self.note(format!(
                "only hidden or git-ignored files match the glob `{glob}`; they were searched"
            ));
        }
        for at in missing.iter().take(NAMED) {
            self.note(self.matches_nothing(*at));
        }
        let more = hidden.len().saturating_sub(NAMED) + missing.len().saturating_sub(NAMED);
        if more > 0 {
            self.note(format!(
                "{more} other globs match nothing or hidden files only"
            ));
        }
        if unmatched.is_empty() {
            let root = self.root.display();
            self.note(
                match self.results.report.searched + self.binary.count as u64 {
                    0 => format!("there is no file to search below {root}"),
                    _ => format!(
                        "all files below {root} are hidden or git-ignored; they were searched"
                    ),
                },
            );
        }
    }

    fn matches_nothing(&self, at: usize) -> String {
        let glob = self.globs.text(at).unwrap_or_default();
        let root = self.root.display();
        let remedy = if glob.contains(char::is_whitespace) && !glob.contains(['{', '[']) {
            "; several globs are separated by commas or line breaks"
        } else if glob.starts_with('/') && !Path::new(glob).starts_with(&self.root) {
            "; give `path` the directory that it is in"
        } else {
            ""
        };
        format!(
            "no file below {root} matches the glob `{glob}`, hidden and git-ignored ones included{remedy}"
        )
    }

    /// Searches the files below the root; with `hidden`, only hidden and ignored files that match one of these globs, or
    /// all of them if there are no globs.
    fn walk(&mut self, hidden: Option<&[usize]>) {
        let globs = self.globs.clone();
        let within: Vec<&str> = KERNEL_DIRECTORIES
            .iter()
            .copied()
            .filter(|own| !self.root.starts_with(own))
            .collect();
        let passes_git = hidden.is_some_and(|wanted| {
            !wanted.iter().any(|at| {
                let glob = globs.text(*at).unwrap_or_default();
                glob.split('/').any(|part| part == ".git")
            })
        });
        let walk = WalkBuilder::new(&self.root)
            .standard_filters(hidden.is_none())
            .sort_by_file_path(Path::cmp)
            .filter_entry(move |entry| {
                let dir = entry.file_type().is_some_and(|kind| kind.is_dir());
                entry.depth() == 0
                    || !(within.iter().any(|own| entry.path() == Path::new(own))
                        || (passes_git && dir && entry.file_name() == ".git")
                        || (dir && globs.prunes(entry.path())))
            })
            .build();
        for entry in walk {
            if self.results.over() {
                return;
            }
            // Files that may not be read are skipped, as in ripgrep, but counted.
            let Ok(entry) = entry else {
                self.results.report.unreadable += 1;
                continue;
            };
            if !entry.file_type().is_some_and(|kind| kind.is_file())
                || self.globs.choose(entry.path()) == Choice::Out
            {
                continue;
            }
            let wanted = self.globs.count(entry.path(), &mut self.hits, hidden);
            if wanted {
                self.file(entry.path());
            }
        }
    }

    /// Searches one file.
    fn file(&mut self, path: &Path) {
        let text = match File::open(path).and_then(TextReader::new) {
            Ok(text) => text,
            Err(_) => {
                self.results.report.unreadable += 1;
                return;
            }
        };
        let shown = || path.display().to_string();
        if text.content() == Content::Binary {
            self.binary.add(shown);
            return;
        }
        self.results.report.searched += 1;
        path.clone_into(&mut self.results.file);
        let before = self.results.report.lines;
        let mut source = SearchedText::new(text, self.keeps_cr, self.results.until);
        let result =
            self.searcher
                .search_reader(self.results.matcher, &mut source, &mut self.results);
        match result {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                self.results.report.timed_out = true;
                self.results.stop = true;
            }
            Err(e) if e.to_string().contains("allocation limit") => self.too_long.add(shown),
            Err(_) => self.results.report.unreadable += 1,
        }
        if std::mem::take(&mut self.results.binary) {
            self.binary.add(shown);
        }
        if self.results.report.lines > before {
            self.results.report.files += 1;
            if let Content::Text(encoding) = source.content()
                && !encoding.is_utf8()
            {
                self.encoded
                    .add(|| format!("{} is in {}", path.display(), encoding.name()));
            }
        }
    }

    fn note(&mut self, note: String) {
        self.results.report.notes.push(note);
    }

    /// The report, with all remarks.
    fn report(mut self, request: &SearchRequest, single: bool) -> SearchReport {
        if self.encoded.count > 0 {
            self.note(self.encoded.list());
        }
        if self.too_long.count > 0 {
            self.note(format!(
                "{}: not searched to the end, for a line (or, with a pattern over lines, the file) is longer than {} \
                 MiB; use exec with grep",
                self.too_long.list(),
                MEMORY >> 20
            ));
        }
        if self.binary.count > 0 && (single || self.results.report.lines == 0) {
            let are = if self.binary.count == 1 { "is" } else { "are" };
            self.note(format!(
                "{} {are} binary and not searched; use exec with `grep -a` or `strings`",
                self.binary.list()
            ));
        }
        if self.results.report.lines == 0 {
            self.results.report.notes.extend(pattern::remark(request));
        }
        self.results.report
    }
}
