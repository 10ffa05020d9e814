//! What others change in the shared directory, by fanotify.
//!
//! Each directory is watched before the guest is told anything of it. The kernel reports the process that made a change,
//! so the guest's own changes, which this process makes, are left out. Changes that arrive together are put together: one
//! note for each file, whatever happened to it. If the kernel lost some, the guest forgets all that it knows.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::known::{Known, lock};
use super::link::Output;
use super::nodes::{Name, NodeId, Place};
use super::note::{self, Note};

/// The changes that are reported: of names in a directory, and of the files and directories with these names.
const CHANGES: u64 = libc::FAN_MODIFY
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ATTRIB
    | libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_EVENT_ON_CHILD
    | libc::FAN_ONDIR;

/// Changes of a name.
const NAMES: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;

/// Changes after which a name leads to nothing.
const GONE: u64 = libc::FAN_DELETE | libc::FAN_MOVED_FROM;

/// Changes of contents.
const CONTENTS: u64 = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;

/// How long reports of the guest's own changes may gather: each one would wake a thread while the guest waits for another.
const PAUSE: Duration = Duration::from_millis(5);

/// The room for reports that are read at once.
const ROOM: usize = 256 << 10;

/// The longest handle of a file in Linux.
const LONGEST_HANDLE: u32 = 128;

/// A file handle: its length, its type, and its bytes, as the kernel writes them.
type Handle = Vec<u8>;

/// The watch of a share.
#[derive(Debug)]
pub(super) struct Watch {
    reports: File,
    directories: Mutex<Directories>,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Directories {
    by_handle: HashMap<Handle, Vec<NodeId>>,
    handles: HashMap<NodeId, Handle>,
}

/// A source of reports, without any directory yet. It is made before system calls are filtered.
pub(super) fn source() -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_NOTIF
        | libc::FAN_CLOEXEC
        | libc::FAN_REPORT_DIR_FID
        | libc::FAN_REPORT_NAME;
    // SAFETY: the call takes two numbers.
    let made = unsafe { libc::fanotify_init(flags, libc::O_RDONLY.cast_unsigned()) };
    match made {
        ..0 => Err(io::Error::last_os_error()),
        // SAFETY: nothing else owns the new descriptor.
        made => Ok(unsafe { OwnedFd::from_raw_fd(made) }),
    }
}

fn mark(source: &File, action: libc::c_uint, directory: BorrowedFd<'_>) -> io::Result<()> {
    let flags = action | libc::FAN_MARK_ONLYDIR;
    // SAFETY: both descriptors are open, and the path ends in a zero byte.
    let marked = unsafe {
        libc::fanotify_mark(
            source.as_raw_fd(),
            flags,
            CHANGES,
            directory.as_raw_fd(),
            c".".as_ptr(),
        )
    };
    match marked {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The handle that the kernel puts into its reports of a directory.
fn handle_of(directory: BorrowedFd<'_>) -> io::Result<Handle> {
    // The length and the type, then room for the bytes.
    let mut handle = [0_u32; 2 + LONGEST_HANDLE as usize / 4];
    handle[0] = LONGEST_HANDLE;
    let mut mount = 0;
    // SAFETY: the handle has room for as many bytes as its first number says.
    let found = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            directory.as_raw_fd(),
            c"".as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if found != 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes: Vec<u8> = handle.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let length = 8 + handle[0].min(LONGEST_HANDLE) as usize;
    Ok(bytes[..length].to_vec())
}

/// The source, if it can report changes in this directory: not every file system and not every kernel can.
pub(super) fn try_out(source: OwnedFd, directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    handle_of(directory)?;
    let source = File::from(source);
    mark(&source, libc::FAN_MARK_ADD, directory)?;
    mark(&source, libc::FAN_MARK_REMOVE, directory)?;
    Ok(source.into())
}

/// Changes of a file that were reported together; the name is empty for the directory itself.
type Changes = HashMap<(NodeId, Name), u64>;

impl Watch {
    /// Reports from `source`, which are sent to the guest from a thread of their own. It calls `failed` if it can't go on:
    /// the guest would believe for an hour what is not so.
    pub(super) fn start(
        source: OwnedFd,
        known: Arc<Mutex<Known>>,
        output: Arc<Output>,
        failed: impl FnOnce(io::Error) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let watch = Arc::new(Self {
            reports: source.into(),
            directories: Mutex::default(),
            output,
        });
        let reader = watch.clone();
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                if let Err(error) = reader.run(&known) {
                    failed(error);
                }
            })?;
        Ok(watch)
    }

    /// Reports changes in a directory from now on.
    pub(super) fn add(&self, id: NodeId, directory: BorrowedFd<'_>) -> io::Result<()> {
        let handle = handle_of(directory)?;
        let mut directories = lock(&self.directories);
        directories
            .by_handle
            .entry(handle.clone())
            .or_default()
            .push(id);
        directories.handles.insert(id, handle);
        drop(directories);
        mark(&self.reports, libc::FAN_MARK_ADD, directory).inspect_err(|_| self.unmap(id))
    }

    /// Reports no changes of a node any more. Without its descriptor the kernel keeps its mark for as long as the directory
    /// is there.
    pub(super) fn remove(&self, id: NodeId, directory: Option<BorrowedFd<'_>>) {
        self.unmap(id);
        if let Some(directory) = directory {
            // It may be gone already.
            mark(&self.reports, libc::FAN_MARK_REMOVE, directory).ok();
        }
    }

    /// Tells the guest of a change that nobody reported.
    pub(super) fn contents_changed(&self, id: NodeId) {
        // If the stream has ended, the thread that reads it sees that.
        self.output.notify(&[Note::Contents(id)]).ok();
    }

    fn unmap(&self, id: NodeId) {
        let mut directories = lock(&self.directories);
        if let Some(handle) = directories.handles.remove(&id)
            && let Some(ids) = directories.by_handle.get_mut(&handle)
        {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                directories.by_handle.remove(&handle);
            }
        }
    }

    fn run(&self, known: &Mutex<Known>) -> io::Result<()> {
        let mut buffer = vec![0; ROOM];
        loop {
            let read = match (&self.reports).read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            let reports = self.changes(&buffer[..read]);
            let notes = match reports {
                Some(changes) => notes(&changes, &mut lock(known)),
                None => everything(&lock(known)),
            };
            match notes.is_empty() {
                false => self.output.notify(&notes)?,
                true => std::thread::sleep(PAUSE),
            }
        }
    }

    /// The changes by others in a buffer of reports; `None` if some were lost.
    fn changes(&self, mut buffer: &[u8]) -> Option<Changes> {
        let own = std::process::id().cast_signed();
        let mut changes = Changes::new();
        while let Some((report, rest)) = Report::split(buffer) {
            buffer = rest;
            if report.changes & libc::FAN_Q_OVERFLOW != 0 {
                return None;
            }
            if report.process == own {
                continue;
            }
            let directories = lock(&self.directories);
            for id in directories
                .by_handle
                .get(report.handle)
                .into_iter()
                .flatten()
            {
                *changes.entry((*id, report.name.clone())).or_default() |= report.changes;
            }
        }
        Some(changes)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reports.as_fd()
    }
}

/// One report of the kernel: `struct fanotify_event_metadata`, then `struct fanotify_event_info_fid` with a file handle and
/// a name.
struct Report<'a> {
    changes: u64,
    process: i32,
    handle: &'a [u8],
    name: Name,
}

impl<'a> Report<'a> {
    /// Splits the first report off.
    fn split(buffer: &'a [u8]) -> Option<(Self, &'a [u8])> {
        const METADATA: usize = size_of::<libc::fanotify_event_metadata>();
        /// The type and length of the information, the file system's id, and the length and type of the handle.
        const BEFORE_HANDLE: usize = 4 + 8;
        let number = |at: usize| {
            let bytes = buffer.get(at..at + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let length = number(0)? as usize;
        let (report, rest) = buffer.split_at_checked(length.max(METADATA))?;
        let changes = u64::from(number(8)?) | u64::from(number(12)?) << 32;
        let process = number(20)?.cast_signed();
        let information = report.get(METADATA..).unwrap_or_default();
        let handle_length = number(METADATA + BEFORE_HANDLE).unwrap_or_default() as usize;
        let handle = information.get(BEFORE_HANDLE..).unwrap_or_default();
        let (handle, name) = handle
            .split_at_checked(8 + handle_length)
            .unwrap_or_default();
        let name = CStr::from_bytes_until_nul(name).unwrap_or_default();
        let name = match name.to_bytes() {
            b"." => c"",
            _ => name,
        };
        Some((
            Self {
                changes,
                process,
                handle,
                name: name.into(),
            },
            rest,
        ))
    }
}

/// What the guest is told of changes.
fn notes(changes: &Changes, known: &mut Known) -> Vec<Note> {
    let mut notes = Vec::new();
    for ((parent, name), change) in changes {
        if name.is_empty() {
            notes.push(Note::of(*parent, change & !libc::FAN_ATTRIB == 0));
            continue;
        }
        let place = Place {
            parent: *parent,
            name: name.clone(),
        };
        let child = known.nodes.at(&place);
        if change & NAMES != 0 {
            // The name may lead to another file by now, or to none.
            known.nodes.take(&place);
            let gone = change & NAMES & !GONE == 0;
            notes.push(match child {
                Some(child) if gone => Note::Gone {
                    place: place.clone(),
                    child,
                },
                _ => Note::Name(place.clone()),
            });
            notes.push(Note::Contents(*parent));
        }
        if let Some(child) = child {
            let contents = change & CONTENTS != 0;
            notes.push(Note::of(child, !contents));
        }
        // What is gone can't be touched, but its directory can.
        let touched = match change & GONE != 0 && change & (NAMES & !GONE) == 0 {
            false => known.nodes.path(&place),
            true => known.nodes.path(&place).map(|path| above(&path).to_vec()),
        };
        notes.extend(touched.map(Note::Touch));
    }
    note::without_repeats(notes)
}

/// The path of the directory of `path`.
fn above(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/');
    &path[..end.unwrap_or_default()]
}

/// The guest may believe nothing that it was told.
fn everything(known: &Known) -> Vec<Note> {
    let mut notes = Vec::new();
    for (id, places) in known.nodes.all() {
        notes.push(Note::Contents(id));
        notes.extend(places.iter().cloned().map(Note::Name));
    }
    notes
}
