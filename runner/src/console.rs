//! The guest's console and the engine's own messages, bounded in memory and on disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The number of lines kept in memory.
const LINES: usize = 200;

/// The number of bytes kept of a line.
const LINE_BYTES: usize = 1000;

/// The size of the log file at which its older half is removed.
const LOG_BYTES: u64 = 1 << 20;

/// The most pieces that are read of one stream before the others.
const PIECES: usize = 16;

/// The start of the kernel's panic message.
const PANIC: &str = "Kernel panic - not syncing: ";

/// The last lines of a stream, without control characters, since terminals show them.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    done: VecDeque<String>,
    current: Vec<u8>,
    panic: Option<String>,
}

impl Lines {
    /// Adds bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.finish_line();
            } else if self.current.len() < LINE_BYTES {
                self.current.push(byte);
            }
        }
    }

    fn finish_line(&mut self) {
        let line = clean(&std::mem::take(&mut self.current));
        if self.panic.is_none()
            && let Some((_, why)) = line.split_once(PANIC)
        {
            self.panic = Some(why.trim().to_owned());
        }
        if self.done.len() == LINES {
            self.done.pop_front();
        }
        self.done.push_back(line);
    }

    /// The last `count` lines, oldest first, including an unfinished one.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let unfinished = Some(clean(&self.current)).filter(|line| !line.is_empty());
        let all = self.done.len() + usize::from(unfinished.is_some());
        self.done
            .iter()
            .cloned()
            .chain(unfinished)
            .skip(all.saturating_sub(count))
            .collect()
    }

    /// Why the guest's kernel panicked, if it did.
    pub(crate) fn panic(&self) -> Option<&str> {
        self.panic.as_deref()
    }
}

fn clean(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .chars()
        .filter(|c| !c.is_control() || *c == '\t')
        .collect()
}

/// A file that holds the end of what was written to it.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    length: u64,
}

impl Log {
    /// Creates the file, or empties it.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self { file, length: 0 })
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length + bytes.len() as u64 > LOG_BYTES {
            self.halve()?;
        }
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn halve(&mut self) -> io::Result<()> {
        let keep = self.length.min(LOG_BYTES / 2);
        let mut tail = Vec::new();
        self.file.seek(SeekFrom::Start(self.length - keep))?;
        self.file.read_to_end(&mut tail)?;
        self.file.rewind()?;
        self.file.write_all(&tail)?;
        self.length = tail.len() as u64;
        self.file.set_len(self.length)
    }
}

/// Reads what is available, up to a limit, without waiting; gives the number of bytes.
pub(crate) fn read_available(fd: BorrowedFd<'_>, mut take: impl FnMut(&[u8])) -> usize {
    let mut piece = [0; 4096];
    let mut bytes = 0;
    for _ in 0..PIECES {
        match rustix::io::read(fd, &mut piece) {
            Ok(n) if n > 0 => {
                take(&piece[..n]);
                bytes += n;
            }
            Err(rustix::io::Errno::INTR) => {}
            // Nothing is available. At the end of the stream its writer has ended, which is handled elsewhere.
            Ok(_) | Err(_) => break,
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_without_control_characters() {
        let mut lines = Lines::default();
        for n in 0..LINES + 5 {
            lines.feed(format!("line {n}\r\n").as_bytes());
        }
        lines.feed(b"\x1b[31mred");
        assert_eq!(
            lines.last(2),
            [format!("line {}", LINES + 4), "[31mred".into()]
        );
        assert_eq!(lines.last(usize::MAX).len(), LINES + 1);
        assert_eq!(lines.last(0), [""; 0]);
    }

    #[test]
    fn a_long_line_is_cut_and_bytes_that_are_not_text_survive() {
        let mut lines = Lines::default();
        lines.feed(&[0xff; 3 * LINE_BYTES]);
        lines.feed(b"\nnext");
        assert_eq!(lines.last(2)[0].chars().count(), LINE_BYTES);
        assert_eq!(lines.last(1), ["next"]);
    }

    #[test]
    fn a_panic_is_noticed_once() {
        let mut lines = Lines::default();
        lines.feed(b"[    0.5] Kernel panic - not syncing: VFS: no root\r\n");
        lines.feed(b"[    0.6] ---[ end Kernel panic - not syncing: VFS: no root ]---\n");
        assert_eq!(lines.panic(), Some("VFS: no root"));
    }

    #[test]
    fn the_log_keeps_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::create(&path).unwrap();
        let mut all = Vec::new();
        for n in 0..400_000_u32 {
            let line = format!("{n}\n");
            log.write(line.as_bytes()).unwrap();
            all.extend_from_slice(line.as_bytes());
        }
        let kept = std::fs::read(&path).unwrap();
        assert!(
            kept.len() as u64 <= LOG_BYTES && kept.len() as u64 >= LOG_BYTES / 2,
            "{}",
            kept.len()
        );
        assert!(all.ends_with(&kept));
    }
}
