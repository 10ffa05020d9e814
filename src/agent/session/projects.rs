//! What is kept of each project: its sessions, and the logs of its servers.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::entry::{First, Header, opened};
use super::error::{SessionError, failed};
use super::file::lock;
use super::place::{agent_dir, is_session};
use crate::{files, presence};

/// The longest first line that is read, in bytes: it holds two paths.
const LINE: u64 = 64 << 10;

/// What is kept of a project.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    /// The directory that it is in, below the data directory.
    pub(crate) path: PathBuf,
    /// How many sessions there are.
    pub(crate) sessions: usize,
    /// The project's directory, if a session says it.
    pub(crate) project: Option<PathBuf>,
    /// Whether that is there, if it is known.
    pub(crate) is_there: Option<bool>,
    /// Whether a process has one of the sessions open.
    pub(crate) open: bool,
}

/// What is kept of all projects. Looking changes nothing.
pub(crate) fn kept(data_dir: &Path) -> Vec<Kept> {
    let mut dirs = presence::entries(&agent_dir(data_dir)).unwrap_or_default();
    dirs.retain(|path| path.is_dir());
    dirs.sort();
    dirs.into_iter().map(of).collect()
}

fn of(path: PathBuf) -> Kept {
    let sessions = sessions(&path);
    let header = sessions.iter().rev().find_map(|session| header(session));
    // An unreadable lock may be held.
    let open = |session: &PathBuf| presence::is_held(session).unwrap_or(true);
    Kept {
        sessions: sessions.len(),
        is_there: header.as_ref().and_then(Header::is_there),
        project: header.and_then(|header| header.project),
        open: sessions.iter().any(open),
        path,
    }
}

fn sessions(dir: &Path) -> Vec<PathBuf> {
    let mut sessions = presence::entries(dir).unwrap_or_default();
    sessions.retain(|path| is_session(path));
    sessions.sort();
    sessions
}

fn header(session: &Path) -> Option<Header> {
    let mut line = Vec::new();
    let file = File::open(session).ok()?.take(LINE);
    BufReader::new(file).read_until(b'\n', &mut line).ok()?;
    opened(&line).map(|First { session }| session)
}

/// Removes what is kept of a project, if no process has one of its sessions open.
pub(crate) fn remove(kept: &Kept) -> Result<(), SessionError> {
    let mut locks = Vec::new();
    for session in sessions(&kept.path) {
        let file = File::open(&session).map_err(failed("open the session", &session))?;
        lock(&file, &session)?;
        locks.push(file);
    }
    // An interrupted removal leaves what the next one removes.
    files::remove_dir(&kept.path).map_err(failed("remove", &kept.path))
}
