//! The requests of a session.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use russh_sftp::extensions::{self, FsyncExtension, HardlinkExtension, LimitsExtension, Statvfs};
use russh_sftp::protocol::{
    Attrs, Data, ExtendedReply, File as NamedFile, FileAttributes, Handle, Name, Open, Packet,
    Read, StatusCode, Version, Write,
};
use russh_sftp::{de, ser};
use rustix::fs::{CWD, Mode, RenameFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::attributes::{Target, attributes};
use super::listing::Listing;
use super::protocol::{MAX_PACKET, invalid, open_flags};
use crate::system::users;

/// The most file data in one packet; the rest of the packet needs room, too.
const MAX_DATA: usize = MAX_PACKET - 1024;

/// The most files and directories that a session may have open.
const MAX_HANDLES: usize = 1024;

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const FSTATVFS: &str = "fstatvfs@openssh.com";

/// The status of an error. Besides the kernel's errors there are `UnexpectedEof` for the end of a file or directory,
/// `InvalidData` for a request that can't be decoded, and `Unsupported` for an unknown request.
fn status_code(error: &io::Error) -> StatusCode {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => StatusCode::Eof,
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StatusCode::NoSuchFile,
        io::ErrorKind::PermissionDenied => StatusCode::PermissionDenied,
        io::ErrorKind::InvalidData => StatusCode::BadMessage,
        io::ErrorKind::Unsupported => StatusCode::OpUnsupported,
        _ => StatusCode::Failure,
    }
}

/// What a handle stands for.
enum Opened {
    File(File),
    Dir(Listing),
}

struct OpenHandle {
    path: PathBuf,
    what: Opened,
}

#[derive(Default)]
pub(super) struct Session {
    home: PathBuf,
    handles: HashMap<String, OpenHandle>,
    /// The number of the last handle. Handles are never reused, so a late request can't reach another file.
    last_handle: u64,
}

impl Session {
    /// A session in `home`, or in `/` if there is no such directory.
    pub(super) fn new(home: PathBuf) -> Self {
        let home = if home.is_dir() { home } else { "/".into() };
        Self {
            home,
            ..Self::default()
        }
    }

    /// The encoded reply to an encoded request.
    pub(super) fn answer(&mut self, mut packet: Bytes) -> io::Result<Bytes> {
        let kind = packet.first().copied().unwrap_or_default();
        let id = match packet.get(1..5) {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        };
        let reply = match Packet::try_from(&mut packet) {
            Ok(request) => {
                let subject = self.subject(&request);
                self.dispatch(request).map_err(|error| (subject, error))
            }
            // These kinds are requests that the library knows.
            Err(error) if matches!(kind, 1 | 3..=20 | 200) => Err((String::new(), invalid(error))),
            Err(_) => Err((String::new(), io::ErrorKind::Unsupported.into())),
        };
        let reply = reply.unwrap_or_else(|(subject, error)| {
            let message = if subject.is_empty() {
                error.to_string()
            } else {
                format!("{subject}: {error}")
            };
            Packet::status(id, status_code(&error), &message, "en")
        });
        Bytes::try_from(reply).map_err(io::Error::other)
    }

    /// The operation and its object, for error messages.
    fn subject(&self, request: &Packet) -> String {
        let of = |handle: &str| match self.handles.get(handle) {
            Some(open) => open.path.display().to_string(),
            None => format!("handle {handle:?}"),
        };
        match request {
            Packet::Open(p) => format!("open {}", p.filename),
            Packet::Close(p) => format!("close {}", of(&p.handle)),
            Packet::Read(p) => format!("read {}", of(&p.handle)),
            Packet::Write(p) => format!("write {}", of(&p.handle)),
            Packet::Lstat(p) => format!("lstat {}", p.path),
            Packet::Stat(p) => format!("stat {}", p.path),
            Packet::Fstat(p) => format!("fstat {}", of(&p.handle)),
            Packet::SetStat(p) => format!("set attributes of {}", p.path),
            Packet::FSetStat(p) => format!("set attributes of {}", of(&p.handle)),
            Packet::OpenDir(p) => format!("open directory {}", p.path),
            Packet::ReadDir(p) => format!("list {}", of(&p.handle)),
            Packet::Remove(p) => format!("remove {}", p.filename),
            Packet::MkDir(p) => format!("create directory {}", p.path),
            Packet::RmDir(p) => format!("remove directory {}", p.path),
            Packet::RealPath(p) => format!("resolve {}", p.path),
            Packet::Rename(p) => format!("rename {} to {}", p.oldpath, p.newpath),
            Packet::ReadLink(p) => format!("read link {}", p.path),
            Packet::Symlink(p) => format!("link {} to {}", p.targetpath, p.linkpath),
            Packet::Extended(p) => p.request.clone(),
            _ => String::new(),
        }
    }

    fn dispatch(&mut self, request: Packet) -> io::Result<Packet> {
        let id = request.get_request_id();
        match request {
            Packet::Init(_) => return Ok(version()),
            Packet::Open(p) => return self.open(&p),
            Packet::Read(p) => return self.read(&p),
            Packet::Lstat(p) => {
                return Ok(attrs(id, &fs::symlink_metadata(self.resolve(&p.path))?));
            }
            Packet::Stat(p) => return Ok(attrs(id, &fs::metadata(self.resolve(&p.path))?)),
            Packet::Fstat(p) => return self.fstat(id, &p.handle),
            Packet::OpenDir(p) => return self.opendir(id, &p.path),
            Packet::ReadDir(p) => return self.readdir(id, &p.handle),
            Packet::RealPath(p) => return Ok(name(id, &real_path(&self.resolve(&p.path))?)),
            Packet::ReadLink(p) => return Ok(name(id, &fs::read_link(self.resolve(&p.path))?)),
            Packet::Extended(p) => return self.extended(id, &p.request, p.data),
            Packet::Close(p) => self
                .handles
                .remove(&p.handle)
                .map(drop)
                .ok_or_else(no_handle)?,
            Packet::Write(p) => self.write(&p)?,
            Packet::SetStat(p) => Target::Path(&self.resolve(&p.path)).apply(&p.attrs)?,
            Packet::FSetStat(p) => match self.handle(&p.handle)? {
                OpenHandle {
                    what: Opened::File(file),
                    ..
                } => Target::File(file).apply(&p.attrs)?,
                OpenHandle { path, .. } => Target::Path(path).apply(&p.attrs)?,
            },
            Packet::Remove(p) => fs::remove_file(self.resolve(&p.filename))?,
            Packet::RmDir(p) => fs::remove_dir(self.resolve(&p.path))?,
            Packet::MkDir(p) => {
                let mode = p.attrs.permissions.unwrap_or(0o777) & 0o7777;
                DirBuilder::new().mode(mode).create(self.resolve(&p.path))?;
            }
            Packet::Rename(p) => rename_new(&self.resolve(&p.oldpath), &self.resolve(&p.newpath))?,
            // OpenSSH's order: the field that the draft calls the link's path holds its target.
            Packet::Symlink(p) => {
                std::os::unix::fs::symlink(&p.linkpath, self.resolve(&p.targetpath))?
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(ok(id))
    }

    /// The path that a client means; relative paths begin at the home directory.
    fn resolve(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.home.clone()
        } else {
            self.home.join(path)
        }
    }

    fn handle(&self, handle: &str) -> io::Result<&OpenHandle> {
        self.handles.get(handle).ok_or_else(no_handle)
    }

    fn file(&self, handle: &str) -> io::Result<&File> {
        match &self.handle(handle)?.what {
            Opened::File(file) => Ok(file),
            Opened::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Fails if no more handles may be open. Called before a file is opened, since opening may truncate it.
    fn check_room(&self) -> io::Result<()> {
        if self.handles.len() < MAX_HANDLES {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{MAX_HANDLES} handles are open; close some first"
        )))
    }

    fn admit(&mut self, id: u32, path: PathBuf, what: Opened) -> Packet {
        self.last_handle += 1;
        let handle = self.last_handle.to_string();
        self.handles
            .insert(handle.clone(), OpenHandle { path, what });
        Handle { id, handle }.into()
    }

    fn open(&mut self, request: &Open) -> io::Result<Packet> {
        self.check_room()?;
        let path = self.resolve(&request.filename);
        let mode = request.attrs.permissions.unwrap_or(0o666) & 0o7777;
        let file = rustix::fs::open(&path, open_flags(request.pflags), Mode::from_raw_mode(mode))?;
        Ok(self.admit(request.id, path, Opened::File(file.into())))
    }

    fn read(&self, request: &Read) -> io::Result<Packet> {
        let file = self.file(&request.handle)?;
        let wanted = usize::try_from(request.len).unwrap_or(MAX_DATA);
        let mut data = vec![0; wanted.min(MAX_DATA)];
        let length = file.read_at(&mut data, request.offset)?;
        if length == 0 && !data.is_empty() {
            return Err(end());
        }
        data.truncate(length);
        Ok(Data {
            id: request.id,
            data,
        }
        .into())
    }

    fn write(&self, request: &Write) -> io::Result<()> {
        self.file(&request.handle)?
            .write_all_at(&request.data, request.offset)
    }

    fn fstat(&self, id: u32, handle: &str) -> io::Result<Packet> {
        let metadata = match self.handle(handle)? {
            OpenHandle {
                what: Opened::File(file),
                ..
            } => file.metadata()?,
            OpenHandle { path, .. } => fs::metadata(path)?,
        };
        Ok(attrs(id, &metadata))
    }

    fn opendir(&mut self, id: u32, path: &str) -> io::Result<Packet> {
        self.check_room()?;
        let path = self.resolve(path);
        let listing = Listing::open(&path)?;
        Ok(self.admit(id, path, Opened::Dir(listing)))
    }

    fn readdir(&mut self, id: u32, handle: &str) -> io::Result<Packet> {
        match &mut self.handles.get_mut(handle).ok_or_else(no_handle)?.what {
            Opened::File(_) => Err(io::ErrorKind::NotADirectory.into()),
            Opened::Dir(listing) => Ok(Name {
                id,
                files: listing.batch()?,
            }
            .into()),
        }
    }

    fn extended(&self, id: u32, request: &str, data: Vec<u8>) -> io::Result<Packet> {
        match request {
            POSIX_RENAME => {
                let p: HardlinkExtension = decode(data)?;
                fs::rename(self.resolve(&p.oldpath), self.resolve(&p.newpath))?;
            }
            extensions::HARDLINK => {
                let p: HardlinkExtension = decode(data)?;
                fs::hard_link(self.resolve(&p.oldpath), self.resolve(&p.newpath))?;
            }
            extensions::FSYNC => self
                .file(&decode::<FsyncExtension>(data)?.handle)?
                .sync_all()?,
            extensions::STATVFS => return statvfs(id, &self.resolve(&decode::<String>(data)?)),
            FSTATVFS => return statvfs(id, &self.handle(&decode::<String>(data)?)?.path),
            extensions::LIMITS => {
                let limits = LimitsExtension {
                    max_packet_len: MAX_PACKET as u64,
                    max_read_len: MAX_DATA as u64,
                    max_write_len: MAX_DATA as u64,
                    max_open_handles: MAX_HANDLES as u64,
                };
                return extended_reply(id, &limits);
            }
            extensions::EXPAND_PATH => {
                let path = expand(&decode::<String>(data)?)?;
                return Ok(name(id, &real_path(&self.home.join(path))?));
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(ok(id))
    }
}

fn no_handle() -> io::Error {
    io::Error::other("no such handle is open")
}

fn end() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

fn ok(id: u32) -> Packet {
    Packet::status(id, StatusCode::Ok, "", "en")
}

fn name(id: u32, path: &Path) -> Packet {
    let filename = path.to_string_lossy().into_owned();
    let entry = NamedFile {
        longname: filename.clone(),
        filename,
        attrs: FileAttributes::empty(),
    };
    Name {
        id,
        files: vec![entry],
    }
    .into()
}

fn attrs(id: u32, metadata: &Metadata) -> Packet {
    Attrs {
        id,
        attrs: attributes(metadata),
    }
    .into()
}

fn version() -> Packet {
    let offered = [
        (POSIX_RENAME, "1"),
        (extensions::HARDLINK, "1"),
        (extensions::FSYNC, "1"),
        (extensions::STATVFS, "2"),
        (FSTATVFS, "2"),
        (extensions::LIMITS, "1"),
        (extensions::EXPAND_PATH, "1"),
    ];
    let mut version = Version::new();
    version.extensions = offered
        .map(|(name, number)| (name.to_owned(), number.to_owned()))
        .into();
    version.into()
}

fn decode<T: DeserializeOwned>(data: Vec<u8>) -> io::Result<T> {
    de::from_bytes(&mut Bytes::from(data)).map_err(invalid)
}

fn extended_reply(id: u32, reply: &impl Serialize) -> io::Result<Packet> {
    let data = ser::to_bytes(reply).map_err(io::Error::other)?.to_vec();
    Ok(ExtendedReply { id, data }.into())
}

fn statvfs(id: u32, path: &Path) -> io::Result<Packet> {
    let found = rustix::fs::statvfs(path)?;
    let reply = Statvfs {
        block_size: found.f_bsize,
        fragment_size: found.f_frsize,
        blocks: found.f_blocks,
        blocks_free: found.f_bfree,
        blocks_avail: found.f_bavail,
        inodes: found.f_files,
        inodes_free: found.f_ffree,
        inodes_avail: found.f_favail,
        fs_id: found.f_fsid,
        // The extension has two flags, read-only and nosuid, with the same numbers as in Linux.
        flags: found.f_flag.bits() & 3,
        name_max: found.f_namemax,
    };
    extended_reply(id, &reply)
}

/// The path without links. The last component need not exist, since clients ask before they create it.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(last)) => Ok(fs::canonicalize(parent)?.join(last)),
                _ => Err(error),
            }
        }
        result => result,
    }
}

/// A path without a leading `~` or `~user`; relative to the home directory for `~`.
fn expand(path: &str) -> io::Result<PathBuf> {
    let Some(rest) = path.strip_prefix('~') else {
        return Ok(path.into());
    };
    let (user, rest) = rest.split_once('/').unwrap_or((rest, ""));
    if user.is_empty() {
        return Ok(rest.into());
    }
    match users::home_of(Path::new("/"), user) {
        Some(home) => Ok(home.join(rest)),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no user {user}"),
        )),
    }
}

/// A rename that fails if the target exists, as the protocol requires.
fn rename_new(old: &Path, new: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::renameat_with(CWD, old, CWD, new, RenameFlags::NOREPLACE) {
        // The file system does not support this in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match fs::symlink_metadata(new) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(old, new),
            Err(error) => Err(error),
        },
        result => Ok(result?),
    }
}
