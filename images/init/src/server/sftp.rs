//! One SFTP session: protocol version 3, the one `sftp`, `scp`, sshfs and editors speak.
//!
//! A session is a home directory and a table of handles. Requests are answered one by one, in the order they
//! came, and each is answered on the actor's thread: the kernel checks every path for the user. Invariants:
//!
//! - every request that can be told apart gets exactly one reply with its id, even one that makes no sense;
//! - a packet longer than `MAX_PACKET`, or a broken stream, ends the session: what follows can't be trusted to
//!   be a packet;
//! - no request waits for another process: files are opened without blocking, so a named pipe can't hold up the
//!   actor's other users.
//!
//! Names that aren't UTF-8 are listed with replacement characters and can't be opened by them: the protocol
//! library has strings, not bytes. Symbolic links take OpenSSH's order of arguments (what the link says, then
//! where it is), which is the reverse of the draft's and what clients send.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use russh_sftp::extensions::{self, FsyncExtension, HardlinkExtension, LimitsExtension, Statvfs};
use russh_sftp::protocol::{
    Attrs, Data, ExtendedReply, File as Entry, FileAttributes, Handle, Name, Open, OpenFlags,
    Packet, Read, StatusCode, Version, Write,
};
use russh_sftp::{de, ser};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::system::actor::Actor;

/// The longest packet either side may send; OpenSSH's own limit.
const MAX_PACKET: usize = 256 * 1024;
/// The most file data in one packet: room for the rest of the packet is left.
const MAX_DATA: usize = MAX_PACKET - 1024;
/// The most files and directories a session may have open.
const MAX_HANDLES: usize = 1024;
/// Directory entries in one reply; at the longest names it still fits a packet.
const BATCH: usize = 100;

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const FSTATVFS: &str = "fstatvfs@openssh.com";

/// Serves one SFTP session until the stream ends; every operation runs with the actor's credentials.
pub(crate) async fn serve<S>(stream: S, actor: Arc<Actor>, home: PathBuf)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    let mut session = actor.run(move || Session::new(home)).await;
    if let Err(error) = converse(&mut stream, &actor, &mut session).await {
        tracing::debug!(%error, "the SFTP session broke off");
    }
    let _ = stream.shutdown().await;
}

async fn converse<S>(
    stream: &mut BufReader<S>,
    actor: &Actor,
    session: &mut Session,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(packet) = read_packet(stream).await? {
        let mut taken = std::mem::take(session);
        let (returned, reply) = actor
            .run(move || {
                let reply = taken.answer(packet);
                (taken, reply)
            })
            .await;
        *session = returned;
        stream.write_all(&reply?).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// The next packet without its length; `None` when the stream ended between two.
async fn read_packet<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Bytes>> {
    let length = match stream.read_u32().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length == 0 || length > MAX_PACKET {
        return Err(invalid(format!("a packet of {length} bytes")));
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    Ok(Some(packet.into()))
}

fn invalid(message: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_string())
}

/// What a status packet says for an error. Besides the kernel's, the session itself uses `UnexpectedEof` for the
/// end of a file or directory, `InvalidData` for what can't be decoded, `Unsupported` for unknown requests.
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

enum Opened {
    File(File),
    Dir(Listing),
}

struct OpenHandle {
    path: PathBuf,
    what: Opened,
}

#[derive(Default)]
struct Session {
    home: PathBuf,
    handles: HashMap<String, OpenHandle>,
    /// Handles are never reused, so that a late request can't reach another file.
    last_handle: u64,
}

impl Session {
    /// A session in `home`, or in `/` if there is no such directory.
    fn new(home: PathBuf) -> Self {
        let home = if home.is_dir() { home } else { "/".into() };
        Self {
            home,
            ..Self::default()
        }
    }

    /// The encoded reply to an encoded request.
    fn answer(&mut self, mut packet: Bytes) -> io::Result<Bytes> {
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
            // Every request a client may make; the library knows no others.
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

    /// The operation and what it is about, for error messages.
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
                fs::DirBuilder::new()
                    .mode(mode)
                    .create(self.resolve(&p.path))?;
            }
            Packet::Rename(p) => rename_new(&self.resolve(&p.oldpath), &self.resolve(&p.newpath))?,
            // OpenSSH's order: the field the draft calls the link's path holds what the link says.
            Packet::Symlink(p) => {
                std::os::unix::fs::symlink(&p.linkpath, self.resolve(&p.targetpath))?
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(ok(id))
    }

    /// Where a client's path is; relative ones are the home directory's.
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

    /// Refuses before anything is opened: an open that is then refused would already have truncated the file.
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
        let mut data = vec![0; (request.len as usize).min(MAX_DATA)];
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
    let entry = Entry {
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
        // The extension has two flags, read-only and nosuid, and Linux numbers them the same.
        flags: found.f_flag.bits() & 3,
        name_max: found.f_namemax,
    };
    extended_reply(id, &reply)
}

fn open_flags(asked: OpenFlags) -> OFlags {
    let mut flags = match (
        asked.contains(OpenFlags::READ),
        asked.contains(OpenFlags::WRITE),
    ) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        // Appending is writing, even where the client doesn't say so.
        (read, false) if asked.contains(OpenFlags::APPEND) => {
            if read {
                OFlags::RDWR
            } else {
                OFlags::WRONLY
            }
        }
        (_, false) => OFlags::RDONLY,
    };
    flags.set(OFlags::APPEND, asked.contains(OpenFlags::APPEND));
    flags.set(OFlags::CREATE, asked.contains(OpenFlags::CREATE));
    flags.set(OFlags::TRUNC, asked.contains(OpenFlags::TRUNCATE));
    flags.set(
        OFlags::EXCL,
        asked.contains(OpenFlags::CREATE | OpenFlags::EXCLUDE),
    );
    // Opening a pipe must not wait for its other end, nor a terminal become this process's.
    flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

/// The path without links; its last component need not exist, since clients ask before they create it.
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

/// A path that may start with `~` or `~user`, relative to the home directory if it is this user's.
fn expand(path: &str) -> io::Result<PathBuf> {
    let Some(rest) = path.strip_prefix('~') else {
        return Ok(path.into());
    };
    let (user, rest) = rest.split_once('/').unwrap_or((rest, ""));
    if user.is_empty() {
        return Ok(rest.into());
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let home = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user))
            .then(|| fields.nth(4))
            .flatten()
    });
    match home {
        Some(home) => Ok(Path::new(home).join(rest)),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no user {user}"),
        )),
    }
}

/// A rename that fails if the target exists, as the protocol has it.
fn rename_new(old: &Path, new: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::renameat_with(CWD, old, CWD, new, RenameFlags::NOREPLACE) {
        // The file system can't do it in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match fs::symlink_metadata(new) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(old, new),
            Err(error) => Err(error),
        },
        result => Ok(result?),
    }
}

/// What to set attributes of.
enum Target<'a> {
    Path(&'a Path),
    File(&'a File),
}

impl Target<'_> {
    /// Sets all it can and returns the first error: a client that may not give a file away still wants its times.
    /// The owner comes before the mode because a change of owner clears the setuid bit; the times come last.
    fn apply(&self, attrs: &FileAttributes) -> io::Result<()> {
        let size = attrs.size.map_or(Ok(()), |size| self.set_size(size));
        let owner = match (attrs.uid, attrs.gid) {
            (None, None) => Ok(()),
            (uid, gid) => self.set_owner(uid, gid),
        };
        let mode = attrs
            .permissions
            .map_or(Ok(()), |mode| self.set_mode(mode & 0o7777));
        let times = match (attrs.atime, attrs.mtime) {
            (None, None) => Ok(()),
            (atime, mtime) => self.set_times(atime, mtime),
        };
        size.and(owner).and(mode).and(times)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.set_len(size),
            Self::Path(path) => {
                let file = rustix::fs::open(*path, open_flags(OpenFlags::WRITE), Mode::empty())?;
                File::from(file).set_len(size)
            }
        }
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        match self {
            Self::File(file) => std::os::unix::fs::fchown(file, uid, gid),
            Self::Path(path) => std::os::unix::fs::chown(path, uid, gid),
        }
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        let permissions = PermissionsExt::from_mode(mode);
        match self {
            Self::File(file) => file.set_permissions(permissions),
            Self::Path(path) => fs::set_permissions(path, permissions),
        }
    }

    fn set_times(&self, atime: Option<u32>, mtime: Option<u32>) -> io::Result<()> {
        let time = |seconds: Option<u32>| match seconds {
            Some(seconds) => Timespec {
                tv_sec: seconds.into(),
                tv_nsec: 0,
            },
            None => Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
        };
        let times = Timestamps {
            last_access: time(atime),
            last_modification: time(mtime),
        };
        match self {
            Self::File(file) => rustix::fs::futimens(file, &times)?,
            Self::Path(path) => {
                rustix::fs::utimensat(CWD, *path, &times, rustix::fs::AtFlags::empty())?
            }
        }
        Ok(())
    }
}

/// The library's own conversion marks pipes, sockets and devices as regular files.
fn attributes(metadata: &Metadata) -> FileAttributes {
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    FileAttributes {
        size: Some(metadata.size()),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        permissions: Some(metadata.mode()),
        atime: Some(seconds(metadata.atime())),
        mtime: Some(seconds(metadata.mtime())),
        ..FileAttributes::empty()
    }
}

/// A directory being listed, and the names of those who may own its entries.
struct Listing {
    entries: Box<dyn Iterator<Item = io::Result<(String, Metadata)>> + Send>,
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Listing {
    fn open(path: &Path) -> io::Result<Self> {
        let listed = fs::read_dir(path)?.map(|entry| {
            let entry = entry?;
            Ok((
                entry.file_name().to_string_lossy().into_owned(),
                entry.metadata()?,
            ))
        });
        let dot = |name: &str| Ok((name.to_owned(), fs::metadata(path.join(name))?));
        let entries = Box::new([dot("."), dot("..")].into_iter().chain(listed));
        Ok(Self {
            entries,
            users: names("/etc/passwd"),
            groups: names("/etc/group"),
        })
    }

    fn batch(&mut self) -> io::Result<Vec<Entry>> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            match self.entries.next() {
                None if batch.is_empty() => return Err(end()),
                None => break,
                Some(Ok((filename, metadata))) => {
                    let longname = self.long_name(&filename, &metadata);
                    batch.push(Entry {
                        filename,
                        longname,
                        attrs: attributes(&metadata),
                    });
                }
                // Removed since the directory was read.
                Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(batch)
    }

    /// The line `ls -l` would print, which clients show and some parse.
    fn long_name(&self, filename: &str, metadata: &Metadata) -> String {
        let owner = |names: &HashMap<u32, String>, id: u32| {
            names.get(&id).cloned().unwrap_or_else(|| id.to_string())
        };
        format!(
            "{} {:4} {:8} {:8} {:8} {} {filename}",
            mode_letters(metadata.mode()),
            metadata.nlink(),
            owner(&self.users, metadata.uid()),
            owner(&self.groups, metadata.gid()),
            metadata.size(),
            date(metadata.mtime(), now()),
        )
    }
}

/// Names by id, of a file like `/etc/passwd` or `/etc/group`.
fn names(path: &str) -> HashMap<u32, String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    // Where several share an id, the first is the one to show.
    text.lines().rev().filter_map(parse).collect()
}

fn mode_letters(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o010_000 => 'p',
        0o020_000 => 'c',
        0o040_000 => 'd',
        0o060_000 => 'b',
        0o120_000 => 'l',
        0o140_000 => 's',
        _ => '-',
    };
    let mut letters = vec![kind];
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        letters.push(if bits & 4 != 0 { 'r' } else { '-' });
        letters.push(if bits & 2 != 0 { 'w' } else { '-' });
        letters.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    letters.into_iter().collect()
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A time as `ls -l` has it: the hour for the last half year, the year otherwise. In UTC.
fn date(time: i64, now: i64) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    const DAY: i64 = 86_400;
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    // An SFTP time ends in 2106, so the loop is short; it also keeps a damaged inode's time from running it long.
    let time = time.clamp(0, u32::MAX.into());
    let (mut year, mut days) = (1970, time / DAY);
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    for length in [
        31,
        28 + i64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
    ] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let mut text = format!("{} {:2} ", MONTHS[month], days + 1);
    let _ = if (now - 182 * DAY..=now + DAY).contains(&time) {
        write!(text, "{:02}:{:02}", time % DAY / 3600, time % 3600 / 60)
    } else {
        write!(text, "{year:5}")
    };
    text
}
