//! Reading and writing files for the host, on a thread that has the user's permissions.
//!
//! A write is atomic: a temporary file beside the old one, renamed over it when all bytes are there. It keeps the
//! old file's mode and owner, and follows a symlink to what it points at.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::enter::plain;
use crate::wire::{
    DirEntry, ErrorKind, ReadContent, ReadReport, ReadRequest, ReadWant, Report, WireError,
    WriteRequest,
};

/// How much of a file is looked at to tell text from other content.
const SNIFF: usize = 8 << 10;

/// How much text is sent at once.
const BATCH: usize = 32 << 10;

fn wire(operation: &str, path: &Path, e: &io::Error) -> WireError {
    let kind = match e.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::PermissionDenied
        }
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => ErrorKind::WrongKind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Other,
    };
    WireError {
        kind,
        message: format!("{operation} {}: {}", path.display(), plain(e)),
    }
}

fn invalid(message: String) -> WireError {
    WireError {
        kind: ErrorKind::InvalidRequest,
        message,
    }
}

fn absolute(workspace: &Path, path: &str) -> Result<PathBuf, WireError> {
    if path.is_empty() || path.contains('\0') {
        return Err(invalid(format!(
            "use the path {path:?}: expected a path that is not empty and has no NUL"
        )));
    }
    Ok(workspace.join(path))
}

/// Names in the same directory that the missing one may have meant.
fn near(path: &Path) -> String {
    let wanted = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let Some(parent) = path.parent() else {
        return String::new();
    };
    let Ok(entries) = fs::read_dir(parent) else {
        return format!("; the directory {} does not exist either", parent.display());
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| {
            let name = name.to_lowercase();
            let stem = wanted.split('.').next().unwrap_or_default();
            name.contains(&wanted)
                || wanted.contains(&name)
                || (stem.len() > 2 && name.starts_with(stem))
        })
        .take(5)
        .collect();
    names.sort();
    if names.is_empty() {
        String::new()
    } else {
        format!("; the directory has {}", names.join(", "))
    }
}

/// Reads; `send` takes the bytes. Runs on the user's thread.
pub(crate) fn read(
    workspace: &Path,
    request: &ReadRequest,
    send: &mut dyn FnMut(Vec<u8>),
) -> Result<Report, WireError> {
    let path = absolute(workspace, &request.path)?;
    let failed = |e: &io::Error| {
        let mut error = wire("read", &path, e);
        if error.kind == ErrorKind::NotFound {
            error.message.push_str(&near(&path));
        }
        error
    };
    let meta = fs::metadata(&path).map_err(|e| failed(&e))?;
    let resolved = path
        .canonicalize()
        .unwrap_or_else(|_| path.clone())
        .to_string_lossy()
        .into_owned();
    let report = |content| {
        Report::Read(ReadReport {
            path: resolved.clone(),
            size: meta.len(),
            content,
        })
    };
    if meta.is_dir() {
        let entries = list(&path).map_err(|e| failed(&e))?;
        for entry in &entries {
            let mut line = serde_json::to_vec(entry).unwrap_or_default();
            line.push(b'\n');
            send(line);
        }
        return Ok(report(ReadContent::Directory {
            entries: entries.len() as u64,
        }));
    }
    if !meta.is_file() {
        let kind = kind(meta.file_type());
        return match kind {
            // Reading one of these may wait forever or change something.
            "fifo" | "socket" | "block" | "char" => Ok(report(ReadContent::Binary {
                description: format!("special file ({kind})"),
            })),
            _ => Err(wire(
                "read",
                &path,
                &io::Error::other("it is neither a file nor a directory"),
            )),
        };
    }
    let mut file = File::open(&path).map_err(|e| failed(&e))?;
    match request.want {
        ReadWant::Bytes { offset, limit } => {
            file.seek(SeekFrom::Start(offset)).map_err(|e| failed(&e))?;
            copy(&mut file.take(limit.unwrap_or(u64::MAX)), send).map_err(|e| failed(&e))?;
            Ok(report(ReadContent::Bytes))
        }
        ReadWant::Lines {
            offset,
            limit,
            max_bytes,
            max_image_bytes,
        } => {
            let mut head = Vec::with_capacity(SNIFF);
            (&mut file)
                .take(SNIFF as u64)
                .read_to_end(&mut head)
                .map_err(|e| failed(&e))?;
            file.seek(SeekFrom::Start(0)).map_err(|e| failed(&e))?;
            if let Some(media_type) = image(&head).filter(|_| meta.len() <= max_image_bytes) {
                copy(&mut file, send).map_err(|e| failed(&e))?;
                return Ok(report(ReadContent::Image {
                    media_type: media_type.into(),
                }));
            }
            if let Some(description) = binary(&head) {
                return Ok(report(ReadContent::Binary { description }));
            }
            let content =
                lines(file, offset.max(1), limit, max_bytes, send).map_err(|e| failed(&e))?;
            Ok(report(content))
        }
    }
}

fn copy(from: &mut dyn Read, send: &mut dyn FnMut(Vec<u8>)) -> io::Result<()> {
    loop {
        let mut buffer = vec![0; 64 << 10];
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        buffer.truncate(read);
        send(buffer);
    }
}

/// Sends whole lines of the window and counts all of them. A file without a final newline has its last line too.
fn lines(
    file: File,
    offset: u64,
    limit: u64,
    max_bytes: u64,
    send: &mut dyn FnMut(Vec<u8>),
) -> io::Result<ReadContent> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut number = pass(&mut reader, offset - 1)?;
    let (mut sent, mut next_offset, mut cut) = (0u64, None, false);
    let (mut line, mut batch) = (Vec::new(), Vec::new());
    let last = offset.saturating_add(limit).saturating_sub(1);
    while number < last {
        line.clear();
        let room = max_bytes.saturating_sub(sent).max(1);
        let (length, longer) = next_line(&mut reader, room as usize, &mut line)?;
        if length == 0 {
            break;
        }
        number += 1;
        if longer && sent > 0 {
            next_offset = Some(number);
            break;
        }
        cut |= longer;
        sent += line.len() as u64;
        if longer {
            line.push(b'\n');
        }
        batch.extend_from_slice(String::from_utf8_lossy(&line).as_bytes());
        if batch.len() >= BATCH {
            send(std::mem::take(&mut batch));
        }
    }
    if !batch.is_empty() {
        send(batch);
    }
    let rest = pass(&mut reader, u64::MAX)?;
    if rest > 0 {
        next_offset = next_offset.or(Some(number + 1));
    }
    Ok(ReadContent::Text {
        total_lines: number + rest,
        next_offset,
        cut,
    })
}

/// Passes over at most so many lines and tells how many they were; the last may lack its newline.
fn pass(reader: &mut impl BufRead, most: u64) -> io::Result<u64> {
    let (mut passed, mut unfinished) = (0, false);
    while passed < most {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        let newlines = memchr::memchr_iter(b'\n', buffer).count() as u64;
        let wanted = most - passed;
        let used = if newlines < wanted {
            passed += newlines;
            buffer.len()
        } else {
            passed = most;
            let end = memchr::memchr_iter(b'\n', buffer).nth(wanted as usize - 1);
            end.map_or(buffer.len(), |at| at + 1)
        };
        unfinished = buffer[used - 1] != b'\n';
        reader.consume(used);
    }
    Ok(passed + u64::from(unfinished))
}

/// Reads to the next newline, keeping at most `keep` bytes. Gives the line's length and whether it was longer than that.
fn next_line(
    reader: &mut impl BufRead,
    keep: usize,
    line: &mut Vec<u8>,
) -> io::Result<(u64, bool)> {
    let (mut length, mut longer) = (0u64, false);
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok((length, longer));
        }
        let end = memchr::memchr(b'\n', buffer).map(|at| at + 1);
        let part = &buffer[..end.unwrap_or(buffer.len())];
        let room = keep.saturating_sub(line.len());
        longer |= part.len() > room;
        line.extend_from_slice(&part[..part.len().min(room)]);
        length += part.len() as u64;
        let used = part.len();
        reader.consume(used);
        if end.is_some() {
            return Ok((length, longer));
        }
    }
}

fn image(head: &[u8]) -> Option<&'static str> {
    match head {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some("image/webp"),
        _ => None,
    }
}

/// A word for content that is no text.
fn binary(head: &[u8]) -> Option<String> {
    let known: &[(&[u8], &str)] = &[
        (b"\x7fELF", "ELF executable or library"),
        (b"\x1f\x8b", "gzip archive"),
        (b"PK\x03\x04", "zip archive"),
        (b"\xfd7zXZ\0", "xz archive"),
        (b"\x28\xb5\x2f\xfd", "zstd archive"),
        (b"BZh", "bzip2 archive"),
        (b"%PDF-", "PDF document"),
        (b"SQLite format 3\0", "SQLite database"),
        (b"!<arch>\n", "static library"),
        (b"\xca\xfe\xba\xbe", "Java class"),
        (b"\0asm", "WebAssembly module"),
    ];
    if let Some((_, name)) = known.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some((*name).into());
    }
    if let Some(media_type) = image(head) {
        return Some(format!("{media_type}, too long to be shown"));
    }
    let text = match std::str::from_utf8(head) {
        Ok(_) => true,
        // A character may be cut at the end of what was looked at.
        Err(e) => e.error_len().is_none() && head.len() == SNIFF,
    };
    (!text || head.contains(&0)).then(|| "binary data".into())
}

fn kind(kind: fs::FileType) -> &'static str {
    match kind {
        k if k.is_file() => "file",
        k if k.is_dir() => "dir",
        k if k.is_symlink() => "symlink",
        k if k.is_fifo() => "fifo",
        k if k.is_socket() => "socket",
        k if k.is_char_device() => "char",
        _ => "block",
    }
}

fn list(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // One that went meanwhile is no reason to fail.
        let Ok(meta) = entry.metadata() else { continue };
        entries.push(DirEntry {
            name: entry.file_name().to_string_lossy().into_owned(),
            kind: kind(meta.file_type()).into(),
            size: meta.len(),
            mode: meta.mode() & 0o7777,
            target: fs::read_link(entry.path())
                .ok()
                .map(|target| target.to_string_lossy().into_owned()),
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Writes what `input` gives. Runs on the user's thread.
pub(crate) fn write(
    workspace: &Path,
    request: &WriteRequest,
    input: &mut dyn Read,
) -> Result<Report, WireError> {
    let path = absolute(workspace, &request.path)?;
    if request.path.ends_with('/') {
        return Err(invalid(format!(
            "write {}: the path names a directory; add a file name",
            path.display()
        )));
    }
    if let Some(mode) = request.mode.filter(|mode| *mode > 0o7777) {
        return Err(invalid(format!(
            "write {}: the mode {mode:o} is out of range; expected 0 to 7777 (octal)",
            path.display()
        )));
    }
    let failed = |e: &io::Error| wire("write", &path, e);
    let target = follow(&path).map_err(|e| failed(&e))?;
    let parent = target.parent().unwrap_or(Path::new("/")).to_owned();
    fs::create_dir_all(&parent).map_err(|e| wire("make the directory", &parent, &e))?;
    let old = match fs::metadata(&target) {
        Ok(meta) if meta.is_dir() => {
            return Err(failed(&io::Error::from(io::ErrorKind::IsADirectory)));
        }
        Ok(meta) if !meta.is_file() => {
            return Err(WireError {
                kind: ErrorKind::WrongKind,
                message: format!("write {}: it is a special file", path.display()),
            });
        }
        Ok(meta) => Some(meta),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(&e)),
    };
    // Replacing needs only the directory's permission; an old file that may not be written stays what it is.
    if old.is_some() {
        File::options()
            .append(true)
            .open(&target)
            .map_err(|e| failed(&e))?;
    }
    let bytes = replace(&target, &parent, old.as_ref(), request, input).map_err(|e| failed(&e))?;
    let resolved = target
        .canonicalize()
        .unwrap_or(target)
        .to_string_lossy()
        .into_owned();
    Ok(Report::Write {
        path: resolved,
        bytes,
    })
}

/// What a path leads to, through symlinks whose end may not exist yet.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

struct Temporary(PathBuf, bool);

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.1 {
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn replace(
    target: &Path,
    parent: &Path,
    old: Option<&fs::Metadata>,
    request: &WriteRequest,
    input: &mut dyn Read,
) -> io::Result<u64> {
    let name = target
        .file_name()
        .ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?
        .to_string_lossy();
    let short: String = name.chars().take(100).collect();
    let unique = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    let mut temporary = Temporary(parent.join(format!(".{short}.{unique:x}.snowglobe")), false);
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary.0)?;
    if let (true, Some(_)) = (request.append, old) {
        io::copy(&mut File::open(target)?, &mut file)?;
    }
    let bytes = io::copy(&mut input.take(request.bytes), &mut file)?;
    if bytes != request.bytes {
        let message = format!(
            "the content ended after {bytes} of {} bytes; the old file is as it was",
            request.bytes
        );
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    file.flush()?;
    if let Some(old) = old {
        // Only root can; anybody else's new file is their own.
        let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
    }
    let mode = request
        .mode
        .or_else(|| old.map(|old| old.mode() & 0o7777))
        .unwrap_or(0o644);
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    fs::rename(&temporary.0, target)?;
    temporary.1 = true;
    Ok(bytes)
}
