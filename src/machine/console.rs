//! A booting machine's console in the log, for `-vv`.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

/// How often the console's file is read.
const POLL: Duration = Duration::from_millis(100);

/// How much of it is logged at most, in bytes. The guest writes it.
const LONGEST: u64 = 1 << 20;

/// Logs the lines of a console's file, from now on and until the returned value is dropped.
pub(super) fn log(path: PathBuf) -> Option<DropGuard> {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return None;
    }
    let ended = CancellationToken::new();
    let guard = ended.clone().drop_guard();
    tokio::spawn(async move {
        let mut lines = Lines::default();
        while ended
            .run_until_cancelled(tokio::time::sleep(POLL))
            .await
            .is_some()
        {
            lines.log(&path);
        }
        lines.log(&path);
    });
    Some(guard)
}

/// The part of a console that was logged.
#[derive(Default)]
struct Lines {
    at: u64,
    /// A line without its end.
    rest: Vec<u8>,
}

impl Lines {
    fn log(&mut self, path: &Path) {
        for line in self.more(path) {
            tracing::debug!("console: {line}");
        }
    }

    /// The lines that are complete since the last time. A file that can't be read has none.
    fn more(&mut self, path: &Path) -> Vec<String> {
        let room = LONGEST.saturating_sub(self.at);
        let mut read = || {
            let mut file = std::fs::File::open(path)?;
            file.seek(SeekFrom::Start(self.at))?;
            file.take(room).read_to_end(&mut self.rest)
        };
        self.at += read().unwrap_or(0) as u64;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        let text = String::from_utf8_lossy(&whole);
        text.lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn each_line_is_given_once_and_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut lines = Lines::default();
        assert_eq!(lines.more(&path), Vec::<String>::new());
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"one\r\ntw").unwrap();
        assert_eq!(lines.more(&path), ["one"]);
        file.write_all(b"o\nthree\n").unwrap();
        assert_eq!(lines.more(&path), ["two", "three"]);
        assert_eq!(lines.more(&path), Vec::<String>::new());
        file.write_all(&vec![b'x'; 2 << 20]).unwrap();
        file.write_all(b"\nlast\n").unwrap();
        lines.more(&path);
        assert_eq!(lines.more(&path), Vec::<String>::new());
        assert!(lines.rest.len() as u64 <= LONGEST);
    }
}
