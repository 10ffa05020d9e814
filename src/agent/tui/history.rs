//! What was said before in this project, to be said again.
//!
//! The file has a prompt a line, as JSON; it is this user's alone, and bounded. Only [`File`] touches the disk.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::{files, private};

/// How many prompts are kept.
const MOST: usize = 1_000;

/// A longer prompt is not kept.
const LONGEST: usize = 32 << 10;

/// How large the file may get before it is written anew, and how much of it is read.
const FILE_BYTES: u64 = 2 << 20;

/// The prompts, the newest last, and which of them the editor shows.
#[derive(Debug, Default)]
pub(super) struct History {
    prompts: Vec<String>,
    at: Option<usize>,
    /// What was in the editor before.
    draft: String,
}

impl History {
    /// Adds older prompts, before those of this session.
    pub(super) fn load(&mut self, mut older: Vec<String>) {
        if let Some(at) = &mut self.at {
            *at += older.len();
        }
        older.append(&mut self.prompts);
        self.prompts = older;
    }

    /// Adds a prompt; whether it is to be kept.
    pub(super) fn add(&mut self, prompt: &str) -> bool {
        self.at = None;
        let is_new = self.prompts.last().is_none_or(|last| last != prompt);
        let keep = is_new && prompt.len() <= LONGEST && !prompt.trim().is_empty();
        if keep {
            self.prompts.push(prompt.to_owned());
            let excess = self.prompts.len().saturating_sub(MOST);
            self.prompts.drain(..excess);
        }
        keep
    }

    /// The prompt before the one that is shown.
    pub(super) fn older(&mut self, now: &str) -> Option<&str> {
        let at = self.at.unwrap_or(self.prompts.len()).checked_sub(1)?;
        if self.at.is_none() {
            now.clone_into(&mut self.draft);
        }
        self.at = Some(at);
        self.prompts.get(at).map(String::as_str)
    }

    /// The prompt after the one that is shown, and in the end what was there before.
    pub(super) fn newer(&mut self) -> Option<&str> {
        let at = self.at? + 1;
        self.at = (at < self.prompts.len()).then_some(at);
        Some(self.prompts.get(at).unwrap_or(&self.draft))
    }

    /// All prompts.
    pub(super) fn prompts(&self) -> &[String] {
        &self.prompts
    }
}

/// The file of a project's prompts.
#[derive(Debug, Clone)]
pub(super) struct File(PathBuf);

impl File {
    pub(super) fn of(data_dir: &Path, project: &Path) -> Self {
        use sha2::Digest as _;
        use std::os::unix::ffi::OsStrExt as _;
        let digest = sha2::Sha256::digest(project.as_os_str().as_bytes());
        let name = hex::encode(&digest[..8]);
        Self(data_dir.join("agent").join("history").join(name))
    }

    /// The prompts in it. One that can't be read is left out.
    pub(super) fn load(&self) -> io::Result<Vec<String>> {
        let mut file = match std::fs::File::open(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        let from = file.metadata()?.len().saturating_sub(FILE_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES).read_to_end(&mut bytes)?;
        let lines = bytes.split(|byte| *byte == b'\n');
        let prompts = lines.filter_map(|line| serde_json::from_slice(line).ok());
        let mut prompts: Vec<String> = prompts.collect();
        let excess = prompts.len().saturating_sub(MOST);
        prompts.drain(..excess);
        Ok(prompts)
    }

    /// Adds a prompt. Of a file that got too large, the newest half stays.
    pub(super) fn add(&self, prompt: &str) -> io::Result<()> {
        if let Some(dir) = self.0.parent() {
            private::dir(dir)?;
        }
        let line = |prompt: &str| format!("{}\n", serde_json::Value::from(prompt));
        let size = std::fs::metadata(&self.0).map_or(0, |file| file.len());
        if size > FILE_BYTES {
            let prompts = self.load()?;
            let kept = prompts[prompts.len() / 2..].iter();
            let lines: String = kept.map(|kept| line(kept)).collect();
            files::replace(&self.0, lines.as_bytes())?;
        }
        let mut file = private::file().create(true).append(true).open(&self.0)?;
        // One write, so that two agents' prompts stay apart.
        file.write_all(line(prompt).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn prompts_come_back_and_so_does_the_draft() {
        let mut history = History::default();
        assert!(history.add("one"));
        assert!(history.add("two"));
        assert!(!history.add("two"));
        assert!(!history.add("  "));
        assert_eq!(history.older("draft"), Some("two"));
        history.load(vec!["zero".to_owned()]);
        assert_eq!(history.older("two"), Some("one"));
        assert_eq!(history.older("one"), Some("zero"));
        assert_eq!(history.older("zero"), None);
        assert_eq!(history.newer(), Some("one"));
        assert_eq!(history.newer(), Some("two"));
        assert_eq!(history.newer(), Some("draft"));
        assert_eq!(history.newer(), None);
        assert_eq!(history.prompts(), ["zero", "one", "two"]);
    }

    #[test]
    fn the_file_is_private_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::of(dir.path(), Path::new("/project"));
        assert_eq!(file.load().unwrap(), Vec::<String>::new());
        file.add("two\nlines").unwrap();
        file.add("é").unwrap();
        assert_eq!(file.load().unwrap(), ["two\nlines", "é"]);
        let mode = std::fs::metadata(&file.0).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let long = "x".repeat(LONGEST);
        for _ in 0..200 {
            file.add(&long).unwrap();
        }
        assert!(std::fs::metadata(&file.0).unwrap().len() <= FILE_BYTES + 2 * LONGEST as u64);
        let mode = std::fs::metadata(&file.0).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&file.0, "\"one\"\nbroken\n\"two\"\n\"thr").unwrap();
        assert_eq!(file.load().unwrap(), ["one", "two"]);
    }
}
