//! Replacing text in a file: exactly what was said, or nothing.
//!
//! What to do is pure ([`replace`]); the file is then written like any other ([`files::write`]): whole, keeping its
//! mode and owner. Edits take turns, so that two of one file both count. In a file whose every line ends in CRLF,
//! line breaks of the call mean CRLF; otherwise they are taken as they are.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use memchr::memmem;
use similar::TextDiff;

use crate::files;
use crate::wire::{
    EditReport, EditRequest, ErrorKind, ReadContent, ReadReport, ReadRequest, ReadWant, Report,
    WireError, WriteRequest,
};

/// The longest file that is edited, in bytes.
const LONGEST: u64 = 16 << 20;

/// How much of a diff is given, in bytes.
const DIFF: usize = 16_000;

/// How long the smallest diff is looked for.
const DIFF_TIME: Duration = Duration::from_millis(500);

/// How many places are named where there are too many.
const PLACES: usize = 5;

/// Why a text could not be replaced: a fragment that goes after the path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Unclear {
    #[error("old_string is empty; to make a file or replace all of it use write")]
    Empty,
    #[error("old_string and new_string are the same")]
    Same,
    #[error("old_string is not in it{0}; read the file and copy the text exactly")]
    Absent(String),
    #[error(
        "old_string is in it {count} times, at lines {lines}; add lines around it to name one, or set replace_all"
    )]
    Ambiguous { count: usize, lines: String },
}

/// Edits a file. Runs on the user's thread.
pub(crate) fn edit(
    workspace: &Path,
    request: &EditRequest,
    turn: &Mutex<()>,
) -> Result<Report, WireError> {
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let (path, old) = whole(workspace, request)?;
    let invalid = |message: String| WireError {
        kind: ErrorKind::InvalidRequest,
        message,
    };
    let (new, count) = replace(
        &old,
        request.old.as_bytes(),
        request.new.as_bytes(),
        request.all,
    )
    .map_err(|e| invalid(format!("edit {path}: {e}")))?;
    let write = WriteRequest {
        path: path.clone(),
        user: request.user,
        mode: None,
        append: false,
        bytes: new.len() as u64,
    };
    files::write(workspace, &write, &mut new.as_slice())?;
    Ok(Report::Edit(EditReport {
        diff: diff(&path, &old, &new),
        path,
        replacements: count as u64,
    }))
}

/// The file's path and content.
fn whole(workspace: &Path, request: &EditRequest) -> Result<(String, Vec<u8>), WireError> {
    let read = ReadRequest {
        path: request.path.clone(),
        user: request.user,
        want: ReadWant::Bytes {
            offset: 0,
            limit: Some(LONGEST + 1),
        },
    };
    let mut content = Vec::new();
    let report = files::read(workspace, &read, &mut |piece| content.extend(piece))?;
    let wrong = |path: &str, what: &str| WireError {
        kind: ErrorKind::WrongKind,
        message: format!("edit {path}: {what}"),
    };
    match report {
        Report::Read(ReadReport {
            path,
            content: ReadContent::Bytes,
            ..
        }) if content.len() as u64 <= LONGEST => Ok((path, content)),
        Report::Read(ReadReport {
            path,
            content: ReadContent::Bytes,
            ..
        }) => Err(wrong(
            &path,
            "it is longer than 16 MiB; use exec with sed or a script",
        )),
        _ => Err(wrong(&request.path, "it is not an ordinary file")),
    }
}

/// The new content and how often the old text was in it.
fn replace(content: &[u8], old: &[u8], new: &[u8], all: bool) -> Result<(Vec<u8>, usize), Unclear> {
    if old.is_empty() {
        return Err(Unclear::Empty);
    }
    let breaks = memchr::memchr_iter(b'\n', content).count();
    let crlf = breaks > 0 && memmem::find_iter(content, b"\r\n").count() == breaks;
    let (old, new) = if crlf {
        (with_crlf(old), with_crlf(new))
    } else {
        (old.to_vec(), new.to_vec())
    };
    if old == new {
        return Err(Unclear::Same);
    }
    let places: Vec<usize> = memmem::find_iter(content, &old).collect();
    match places.len() {
        0 => return Err(Unclear::Absent(hint(content, &old))),
        1 => {}
        _ if all => {}
        count => {
            let mut lines: Vec<String> = places
                .iter()
                .take(PLACES)
                .map(|at| line_of(content, *at).to_string())
                .collect();
            if count > PLACES {
                lines.push("…".to_owned());
            }
            let lines = lines.join(", ");
            return Err(Unclear::Ambiguous { count, lines });
        }
    }
    let mut result = Vec::with_capacity(content.len() + places.len() * new.len());
    let mut from = 0;
    for at in &places {
        result.extend_from_slice(&content[from..*at]);
        result.extend_from_slice(&new);
        from = at + old.len();
    }
    result.extend_from_slice(&content[from..]);
    Ok((result, places.len()))
}

fn with_crlf(text: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    for (at, byte) in text.iter().enumerate() {
        if *byte == b'\n' && (at == 0 || text[at - 1] != b'\r') {
            result.push(b'\r');
        }
        result.push(*byte);
    }
    result
}

fn line_of(content: &[u8], at: usize) -> usize {
    memchr::memchr_iter(b'\n', &content[..at]).count() + 1
}

/// Where a text that differs only in white space is.
fn hint(content: &[u8], old: &[u8]) -> String {
    let lines = |text: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(text);
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    let (wanted, lines) = (lines(old), lines(content));
    if wanted.iter().all(String::is_empty) {
        return String::new();
    }
    let at = lines
        .windows(wanted.len())
        .position(|window| window == wanted);
    at.map(|at| {
        format!(
            " (at line {} is a text that differs in white space only)",
            at + 1
        )
    })
    .unwrap_or_default()
}

fn diff(path: &str, old: &[u8], new: &[u8]) -> String {
    let (old, new) = (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
    let diff = TextDiff::configure()
        .timeout(DIFF_TIME)
        .diff_lines(old.as_ref(), new.as_ref());
    let mut text = diff
        .unified_diff()
        .context_radius(3)
        .header(path, path)
        .to_string();
    if text.len() > DIFF {
        let end = (0..=DIFF).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str("\n[… the diff goes on …]\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(content: &str, old: &str, new: &str, all: bool) -> Result<String, String> {
        replace(content.as_bytes(), old.as_bytes(), new.as_bytes(), all)
            .map(|(content, _)| String::from_utf8(content).unwrap())
            .map_err(|unclear| unclear.to_string())
    }

    #[test]
    fn one_place_or_all_of_them() {
        assert_eq!(replaced("a b c", "b", "x", false).unwrap(), "a x c");
        assert_eq!(replaced("b b", "b", "bb", true).unwrap(), "bb bb");
        assert_eq!(replaced("a\nb\n", "a\n", "", false).unwrap(), "b\n");
        let refused = replaced("b\n\nb\nb", "b", "x", false).unwrap_err();
        assert!(refused.contains("3 times, at lines 1, 3, 4;"), "{refused}");
    }

    #[test]
    fn what_is_not_there_is_refused_with_where_it_may_be() {
        let refused = replaced(
            "one\n\tif  x {\n\t\ty\n",
            "    if x {\n        y\n",
            "",
            false,
        );
        let refused = refused.unwrap_err();
        assert!(refused.contains("at line 2 is a text"), "{refused}");
        let refused = replaced("one", "two", "three", false).unwrap_err();
        assert!(
            refused.starts_with("old_string is not in it; "),
            "{refused}"
        );
        assert!(replaced("a", "", "b", false).is_err());
        assert!(replaced("a", "a", "a", true).is_err());
    }

    #[test]
    fn line_endings_stay_what_they_are() {
        assert_eq!(
            replaced("a\r\nb\r\n", "a\nb", "x\ny\nz", false).unwrap(),
            "x\r\ny\r\nz\r\n"
        );
        // Mixed: taken as it is.
        assert_eq!(
            replaced("a\r\nb\nc\n", "b\n", "x\ny\n", false).unwrap(),
            "a\r\nx\ny\nc\n"
        );
        assert!(replaced("a\r\nb\n", "a\nb", "x", false).is_err());
    }

    #[test]
    fn a_diff_shows_the_change_and_is_bounded() {
        let text = diff("/f", b"a\nb\nc\n", b"a\nx\nc\n");
        assert!(text.contains("--- /f\n+++ /f\n@@"), "{text}");
        assert!(text.contains("\n-b\n+x\n"), "{text}");
        let (old, new) = ("a\n".repeat(20_000), "b\n".repeat(20_000));
        assert!(diff("/f", old.as_bytes(), new.as_bytes()).len() < DIFF + 100);
    }
}
