//! A directory of the host: a FUSE file system whose messages init carries over a stream.
//!
//! ```text
//! kernel ------------- requests --------> stream ---> host
//!    ^---------------------- replies <----'
//!    ^-------- notes <----------'
//! ```
//!
//! What a request costs is mostly the time until a thread runs. So the program that makes one writes it to the stream itself,
//! inside the kernel (`images/kernel/patches/fuse-carry.patch`); a thread of init does so for what nobody waits for, and for
//! the rest of what the stream did not take at once. Two more threads carry what comes back. They never use the directory
//! themselves: they would wait for their own answer. A note may wait for a lock that a program holds while it waits for a
//! reply, so notes have a thread of their own. These threads run before all others, on the processor that takes the
//! interrupts.
//!
//! If the stream ends, the kernel gives up the file system: every program that waits for it gets an error.

mod connection;
mod frames;
mod touch;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::thread::CpuSet;
use thread_priority::unix::{
    RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};
use thread_priority::{ThreadPriority, ThreadPriorityValue};
use vsock::{VMADDR_CID_HOST, VsockStream};

use self::frames::{Frame, Frames, Note};
use crate::boot::Link;
use crate::link::find_port;
use crate::wire::share::MOST;

/// The kernel's side of every FUSE file system.
const DEVICE: &str = "/dev/fuse";

/// How long a port may take to appear.
const PORT_LIMIT: Duration = Duration::from_secs(10);

/// How often it is looked for.
const PORT_STEP: Duration = Duration::from_millis(2);

/// The threads that carry a share's messages.
#[derive(Debug)]
pub struct Carriers([JoinHandle<()>; 3]);

impl Carriers {
    /// Waits until they have ended.
    pub fn join(self) {
        for carrier in self.0 {
            // A panic has been printed.
            carrier.join().ok();
        }
    }
}

/// Mounts the directory that `link` carries at `path`, whose file system is called `name`.
pub fn mount_share(link: &Link, name: &str, path: &Path) -> io::Result<Carriers> {
    let stream = open(link)?;
    let device = File::options().read(true).write(true).open(DEVICE)?;
    // The kernel checks permissions: all files belong to one user, and the host knows no other.
    let options = format!(
        "fd={},carry={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read={MOST}",
        device.as_raw_fd(),
        stream.as_raw_fd(),
    );
    // The time of the last access is the host's affair: to ask for it after each read takes a message.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    let options = std::ffi::CString::new(options)?;
    mount(name, path, "fuse.snowglobe", flags, options.as_c_str())?;
    let device = Arc::new(device);
    let (notes, noted) = channel();
    let (touches, touched) = channel();
    touch::start(path, touched)?;
    let carried = (device.clone(), path.to_owned());
    let requests = start("requests", move || {
        let ended = carry_requests(&carried.0);
        connection::give_up(&carried.1, &ended);
    })?;
    let carried = (device.clone(), path.to_owned());
    let replies = start("replies", move || {
        let ended = carry_replies(stream, &carried.0, &notes);
        connection::give_up(&carried.1, &ended);
    })?;
    let notes = start("notes", move || carry_notes(&device, &noted, &touches))?;
    Ok(Carriers([requests, replies, notes]))
}

/// Opens the stream, which is a file in either case.
fn open(link: &Link) -> io::Result<File> {
    match link {
        Link::VirtioSerial { name } => {
            let path = wait_for_port(name)?;
            File::options().read(true).write(true).open(path)
        }
        Link::Vsock { port } => {
            let stream = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, *port)?;
            Ok(OwnedFd::from(stream).into())
        }
    }
}

/// The kernel finds the port while init starts, and without udev nothing reports it.
fn wait_for_port(name: &str) -> io::Result<std::path::PathBuf> {
    let mut waited = Duration::ZERO;
    loop {
        match find_port(name) {
            Err(_) if waited < PORT_LIMIT => {
                std::thread::sleep(PORT_STEP);
                waited += PORT_STEP;
            }
            found => return found,
        }
    }
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("share-{name}"))
        .spawn(move || {
            // Best effort: slower without.
            hurry();
            run();
        })
}

/// Lets this thread run as soon as it can, where the interrupts arrive.
fn hurry() {
    let mut first = CpuSet::new();
    first.set(0);
    rustix::thread::sched_setaffinity(None, &first).ok();
    let lowest = ThreadPriorityValue::try_from(1_u8).map(ThreadPriority::Crossplatform);
    if let Ok(lowest) = lowest {
        let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
        set_thread_priority_and_policy(thread_native_id(), lowest, policy).ok();
    }
}

/// Has the kernel carry requests until the file system is unmounted or the stream ends.
fn carry_requests(device: &File) -> io::Error {
    loop {
        // With `carry`, this reads nothing, and returns only if it fails.
        match rustix::io::read(device, &mut [0; 1]) {
            // A program gave a request up on the way.
            Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::NOENT) => {}
            Err(rustix::io::Errno::NOMEM) => std::thread::sleep(PORT_STEP),
            Err(error) => return error.into(),
        }
    }
}

/// Carries replies to the kernel, and notes to their thread.
fn carry_replies(mut host: impl Read, device: &File, notes: &Sender<Note>) -> io::Error {
    let mut frames = Frames::default();
    loop {
        match frames.fill(&mut host) {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return error,
        }
        loop {
            match frames.next() {
                Ok(Some(Frame::Reply(reply))) => {
                    // It fails for a request that was given up.
                    rustix::io::write(device, reply).ok();
                }
                Ok(Some(Frame::Note(note))) => {
                    notes.send(note).ok();
                }
                Ok(None) => break,
                Err(error) => return error,
            }
        }
    }
}

/// Hands notes to the kernel, which refuses those about files that it does not know. A file is touched after it: until then
/// its name may lead to another one.
fn carry_notes(device: &File, notes: &Receiver<Note>, touches: &Sender<Vec<u8>>) {
    while let Ok(note) = notes.recv() {
        match note {
            Note::Kernel(message) => {
                rustix::io::write(device, &message).ok();
            }
            Note::Touch(path) => {
                touches.send(path).ok();
            }
        }
    }
}
