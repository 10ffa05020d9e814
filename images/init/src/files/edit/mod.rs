//! Replacing text in a file: exactly as requested, or not at all.
//!
//! The new content is computed without I/O ([`replace`]); the file is then written like any other ([`files::replace`]).
//! Edits take turns, so that two edits of one file both take effect. A file keeps its encoding, its line ends and its byte
//! order mark.

mod diff;
mod error;
mod hint;
mod lines;
mod plan;
mod replace;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use self::replace::{Replaced, replace};
use crate::files::encoding::{self, Content, Encoding};
use crate::files::{self, Places};
use crate::wire::{EditReport, EditRequest, ErrorKind, Report, WireError};

/// The longest file that is edited, in bytes.
const LONGEST: u64 = 16 << 20;

/// Edits a file. Runs on the user's thread.
pub(crate) fn edit(
    places: &Places,
    request: &EditRequest,
    turn: &Mutex<()>,
) -> Result<Report, WireError> {
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let mut remarks = Vec::new();
    let (target, old) = whole(places, request, &mut remarks)?;
    let path = target.to_string_lossy().into_owned();
    let invalid = |message: String| WireError::invalid(format!("edit {path}: {message}"));
    let content = encoding::detect_whole(&old);
    // Binary content may contain text. All other bytes stay unchanged.
    let encoding = content.encoding().unwrap_or(Encoding::UTF_8);
    if !encoding.is_stateless() {
        return Err(invalid(format!(
            "it is in {}, which can't be edited in part; convert it first with exec: iconv -f {} -t UTF-8",
            encoding.name(),
            encoding.label()
        )));
    }
    let replaced = replace(encoding, &old, &request.old, &request.new, request.all)
        .map_err(|e| invalid(e.to_string()))?;
    remarks.extend(files::replace(&target, &replaced.bytes, None)?);
    remarks.extend(notes(content, &replaced));
    Ok(Report::Edit(EditReport {
        diff: diff::diff(&path, &replaced.before, &replaced.after),
        path,
        replacements: replaced.count as u64,
        notes: remarks,
    }))
}

/// Remarks about the file's encoding and line ends.
fn notes(content: Content, replaced: &Replaced) -> Vec<String> {
    let mut notes = Vec::new();
    match content {
        Content::Binary => notes.push(
            "the file is no text; all but the text that was replaced is as it was".to_owned(),
        ),
        Content::Text(encoding) if encoding != Encoding::UTF_8 => {
            notes.push(format!("the file is in {}, and stays so", encoding.name()));
            let now = encoding::detect_whole(&replaced.bytes);
            if now != content && now != Content::Ascii {
                notes.push(
                    "what is left can't be told from another encoding any more: better convert the file to UTF-8"
                        .to_owned(),
                );
            }
        }
        Content::Text(_) if std::str::from_utf8(&replaced.bytes).is_err() => notes.push(
            "the file is in UTF-8, with bytes that are not; those stay as they are".to_owned(),
        ),
        Content::Ascii | Content::Text(_) => {}
    }
    if replaced.before == replaced.after {
        notes.push("only the ends of lines changed, which the diff does not show".to_owned());
    }
    notes
}

/// The file's resolved path and its content.
fn whole(
    places: &Places,
    request: &EditRequest,
    remarks: &mut Vec<String>,
) -> Result<(PathBuf, Vec<u8>), WireError> {
    let path = places.find(&request.path, remarks)?;
    match files::whole(&path, LONGEST)? {
        Some(content) => Ok((path.canonicalize().unwrap_or(path), content)),
        None => Err(WireError::new(
            ErrorKind::WrongKind,
            format!(
                "edit {}: it is longer than 16 MiB; use exec with sed or a script",
                path.display()
            ),
        )),
    }
}
