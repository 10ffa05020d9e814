//! The sessions of a project. A list reads only the last entry's line of each.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::entry::{Place, Placed, opened};
use super::error::{SessionError, failed};
use super::file::Session;
use super::place::{is_session, project_dir};
use super::read::Contents;
use crate::presence;

/// How much of a file's end is read at first, in bytes.
const END: u64 = 16 << 10;

/// What a list shows of a session.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    /// Its name.
    pub(crate) id: String,
    /// Its file.
    pub(crate) path: PathBuf,
    /// The beginning of what a person said first.
    pub(crate) title: String,
    /// When it was last written.
    pub(crate) changed: Timestamp,
    /// How many messages its branch has.
    pub(crate) messages: usize,
}

impl Session {
    /// The sessions of a project in which something was said, the newest first. One that can't be read is left out, with its
    /// reason in the second list.
    pub(crate) fn list(data_dir: &Path, project: &Path) -> (Vec<Summary>, Vec<String>) {
        let dir = project_dir(data_dir, project);
        let paths = match presence::is_name(&dir) {
            Ok(false) => Ok(Vec::new()),
            _ => presence::entries(&dir).map_err(failed("list the sessions in", &dir)),
        };
        let (mut found, mut unreadable) = (Vec::new(), Vec::new());
        let unread = |error| format!("failed to {}", crate::describe(&error));
        match paths {
            Ok(paths) => {
                for path in paths.iter().filter(|path| is_session(path)) {
                    match summary(path) {
                        Ok(summary) => found.extend(summary.filter(|one| one.messages > 0)),
                        Err(error) => unreadable.push(unread(error)),
                    }
                }
            }
            Err(error) => unreadable.push(unread(error)),
        }
        found.sort_by(|a, b| (b.changed, &b.id).cmp(&(a.changed, &a.id)));
        (found, unreadable)
    }
}

fn summary(path: &Path) -> Result<Option<Summary>, SessionError> {
    let unread = || failed("read the session", path);
    let file = File::open(path).map_err(unread())?;
    let Some(last) = last(&file).map_err(unread())? else {
        let read = Contents::read(path, &file)?.sound_end;
        let length = file.metadata().map_err(unread())?.len();
        return match read < length {
            true => Err(SessionError::Damaged(path.to_owned())),
            false => Ok(None),
        };
    };
    let id = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(Some(Summary {
        id: id.into_owned(),
        path: path.to_owned(),
        title: last.title,
        changed: last.time,
        messages: last.messages,
    }))
}

/// The place of the last sound entry.
fn last(file: &File) -> std::io::Result<Option<Place>> {
    let length = file.metadata()?.len();
    let mut wanted = END;
    loop {
        let from = length.saturating_sub(wanted);
        let mut end = vec![0; usize::try_from(length - from).unwrap_or(0)];
        file.read_exact_at(&mut end, from)?;
        let lines = end.split_inclusive(|byte| *byte == b'\n').rev();
        match lines.into_iter().find_map(opened::<Placed>) {
            None if from > 0 => wanted *= 8,
            found => return Ok(found.map(|found| found.place)),
        }
    }
}
