//! One open session.
//!
//! A process has a session's file locked for as long as the session is open, so no other one writes to it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::super::message::Message;
use super::entry::{Body, Entry, EntryId, First, Header, Place, sealed};
use super::error::{SessionError, failed};
use super::place::project_dir;
use super::read::Contents;
use crate::blocking::blocking_here;
use crate::{files, private};

/// How much of what a person says first is a session's title, in characters.
const TITLE: usize = 80;

/// A conversation in its file.
#[derive(Debug)]
pub(crate) struct Session {
    path: PathBuf,
    /// The locked file, once there is one.
    file: Option<File>,
    /// What a new file begins with.
    header: Header,
    /// How long the file's sound part is.
    length: u64,
    /// The entry with the number n is the one before index n.
    entries: Vec<Entry>,
}

impl Session {
    /// Begins a session of a project. The file is made with the first entry.
    pub(crate) fn create(data_dir: &Path, project: &Path) -> Self {
        let now = Timestamp::now().strftime("%Y%m%d-%H%M%S");
        let name = format!("{now}-{:06x}.jsonl", rand::random::<u32>() >> 8);
        Self {
            path: project_dir(data_dir, project).join(name),
            file: None,
            header: Header::new(Some(project)),
            length: 0,
            entries: Vec::new(),
        }
    }

    /// Opens a session to continue it, and says what had to be mended.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<String>), SessionError> {
        let file = private::file().read(true).append(true).open(path);
        let file = file.map_err(failed("open the session", path))?;
        lock(&file, path)?;
        let contents = Contents::read(path, &file)?;
        let notice = mend(&file, path, contents.sound_end)?;
        let session = Self {
            path: path.to_owned(),
            file: Some(file),
            header: contents.header.unwrap_or_else(|| Header::new(None)),
            length: contents.sound_end,
            entries: contents.entries,
        };
        Ok((session, notice))
    }

    /// Its name.
    pub(crate) fn id(&self) -> &str {
        let name = self.path.file_stem().and_then(|name| name.to_str());
        name.unwrap_or_default()
    }

    /// Its file.
    #[cfg(test)]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The model that it was last held with.
    pub(crate) fn model(&self) -> Option<&str> {
        let bodies = self.branch().into_iter().rev();
        let mut models = bodies.filter_map(|(_, body)| match body {
            Body::Model(name) => Some(name.as_str()),
            Body::Message(Message::Assistant(answer)) => Some(answer.model.as_str()),
            _ => None,
        });
        models.next()
    }

    fn entry(&self, n: EntryId) -> Option<&Entry> {
        self.entries.get(usize::try_from(n.0).ok()?.checked_sub(1)?)
    }

    /// Adds an entry to the present branch. It is on the disk when this returns.
    pub(crate) fn append(&mut self, body: Body) -> Result<EntryId, SessionError> {
        let last = self.entries.last();
        let parent = match body {
            Body::Rewind(to) => {
                let to = self.entry(to).ok_or(SessionError::NoEntry(to))?;
                to.place.parent
            }
            _ => last.map(|last| last.place.n),
        };
        let before = parent.and_then(|parent| self.entry(parent));
        let before = before.map_or(0, |entry| entry.place.messages);
        let title = match last.map(|last| &last.place.title) {
            Some(title) if !title.is_empty() => title.clone(),
            _ => title(&body),
        };
        let n = EntryId(self.entries.len() as u64 + 1);
        let place = Place {
            n,
            parent,
            messages: before + usize::from(matches!(body, Body::Message(_))),
            time: Timestamp::now(),
            title,
        };
        let entry = Entry { place, body };
        blocking_here(|| self.write(&entry))?;
        self.entries.push(entry);
        Ok(n)
    }

    fn write(&mut self, entry: &Entry) -> Result<(), SessionError> {
        let path = &self.path;
        let unwritten = || failed("write the session", path);
        let mut line = sealed(entry).map_err(|error| unwritten()(error.into()))?;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(begin(path)?),
        };
        if self.length == 0 {
            let session = self.header.clone();
            let header = sealed(&First { session });
            line.insert_str(0, &header.map_err(|error| unwritten()(error.into()))?);
        }
        let meta = file.metadata().map_err(unwritten())?;
        if meta.nlink() == 0 {
            return Err(SessionError::Removed(path.clone()));
        }
        // An entry before this one could not be written whole.
        if meta.len() > self.length {
            file.set_len(self.length).map_err(unwritten())?;
        }
        let written = file.write_all(line.as_bytes());
        written
            .and_then(|()| file.sync_data())
            .map_err(unwritten())?;
        self.length += line.len() as u64;
        Ok(())
    }

    /// The entries of the present branch, in order.
    pub(crate) fn branch(&self) -> Vec<(EntryId, &Body)> {
        let mut branch = Vec::new();
        let mut next = self.entries.last();
        while let Some(entry) = next {
            branch.push((entry.place.n, &entry.body));
            next = entry.place.parent.and_then(|parent| self.entry(parent));
        }
        branch.reverse();
        branch
    }
}

/// Makes a session's file, with its directories, and locks it.
fn begin(path: &Path) -> Result<File, SessionError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    private::dir(dir).map_err(failed("make the directory", dir))?;
    let mut new = private::file();
    let file = new.read(true).append(true).create_new(true).open(path);
    let file = file.map_err(failed("make the session", path))?;
    lock(&file, path)?;
    // The directories may be new, too.
    for dir in dir.ancestors().take(3) {
        files::sync_dir(dir).map_err(failed("write the directory", dir))?;
    }
    Ok(file)
}

/// Locks a session's file, for as long as it is open.
pub(super) fn lock(file: &File, path: &Path) -> Result<(), SessionError> {
    match file.try_lock() {
        Err(std::fs::TryLockError::WouldBlock) => return Err(SessionError::Busy(path.to_owned())),
        locked => locked.map_err(|error| failed("lock the session", path)(error.into()))?,
    }
    let links = file.metadata().map(|meta| meta.nlink());
    match links.map_err(failed("look at the session", path))? {
        0 => Err(SessionError::Removed(path.to_owned())),
        _ => Ok(()),
    }
}

/// Cuts what is damaged at the end of a session's file, after it was copied to `SESSION.damaged`; says so.
fn mend(file: &File, path: &Path, sound_end: u64) -> Result<Option<String>, SessionError> {
    let beside = path.with_extension("damaged");
    let mended = || -> io::Result<u64> {
        let damaged = file.metadata()?.len().saturating_sub(sound_end);
        if damaged > 0 {
            let mut from: &File = file;
            from.seek(SeekFrom::Start(sound_end))?;
            let mut to = private::file().append(true).create(true).open(&beside)?;
            io::copy(&mut from.take(damaged), &mut to)?;
            to.sync_all()?;
            files::sync_dir(path.parent().unwrap_or(Path::new(".")))?;
            file.set_len(sound_end)?;
            file.sync_data()?;
        }
        Ok(damaged)
    };
    let damaged = mended().map_err(failed("mend the session", path))?;
    Ok((damaged > 0).then(|| {
        format!(
            "the session {} was damaged: its end could not be read ({}), probably because it was being written when the program \
             or the machine was stopped; it was cut, and is kept in {}",
            path.display(),
            crate::text::size(damaged),
            beside.display()
        )
    }))
}

/// The title that an entry gives its session, if any.
fn title(body: &Body) -> String {
    let Body::Message(Message::User(user)) = body else {
        return String::new();
    };
    // Blanks in a row count as one; a text of nothing else is not looked at to its end.
    let beginning: String = user.text.trim_start().chars().take(10 * TITLE).collect();
    let words: Vec<&str> = beginning.split_whitespace().collect();
    words.join(" ").chars().take(TITLE).collect()
}
