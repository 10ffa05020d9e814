//! A guest whose kernel is hostile: raw FUSE messages to the server of a share, as a virtual machine would put them
//! into its queue. The server runs here without its namespaces, so what holds is what it checks itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// How long a message may take: the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// The queue's parts in the guest's memory, which a file is.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const REQUEST: u64 = 0x10_0000;
const REPLY: u64 = 0x20_0000;
const MEMORY: u64 = 0x40_0000;
const QUEUE: u16 = 16;

/// Where the virtual machine says that it has that memory.
const AT: u64 = 0x10_0000_0000;

/// The most that a reply may have here.
const ROOM: u32 = 0x10_0000;

/// FUSE's operations.
mod op {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RMDIR: u32 = 11;
    pub(super) const RENAME: u32 = 12;
    pub(super) const LINK: u32 = 13;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const SETXATTR: u32 = 21;
    pub(super) const GETXATTR: u32 = 22;
    pub(super) const LISTXATTR: u32 = 23;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const CREATE: u32 = 35;
    pub(super) const BATCH_FORGET: u32 = 42;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const RENAME2: u32 = 45;
    pub(super) const COPY_FILE_RANGE: u32 = 47;
}

/// The root's number.
const ROOT: u64 = 1;

/// Bytes of numbers, as they stand in a message.
macro_rules! bytes {
    ($($number:expr),* $(,)?) => {{
        let mut all = Vec::new();
        $(all.extend_from_slice(&$number.to_le_bytes());)*
        all
    }};
}

/// A guest and the server of its share.
struct Hostile {
    server: Child,
    vhost: UnixStream,
    memory: File,
    kick: OwnedFd,
    call: OwnedFd,
    sent: u16,
}

impl Hostile {
    /// A server of `share`, and a guest that has said hello.
    fn new(share: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let order =
            serde_json::json!({"share": {"tag": "workspace", "path": share, "guest_id": 1000}});
        let mut command = Command::new(env!("CARGO_BIN_EXE_snowglobe-runner"));
        command
            .current_dir(share)
            .arg("share")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: duplicates a descriptor between fork and exec, and nothing else.
        unsafe {
            command.pre_exec(move || {
                let taken = match listener.as_raw_fd() {
                    3 => libc::fcntl(3, libc::F_SETFD, 0),
                    other => libc::dup2(other, 3),
                };
                match taken {
                    -1 => Err(std::io::Error::last_os_error()),
                    _ => Ok(()),
                }
            });
        }
        let mut server = command.spawn().unwrap();
        let mut input = server.stdin.take().unwrap();
        input.write_all(order.to_string().as_bytes()).unwrap();
        drop(input);
        let memory = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let memory = File::from(memory);
        memory.set_len(MEMORY).unwrap();
        let event = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let mut guest = Self {
            server,
            vhost: UnixStream::connect(&path).unwrap(),
            memory,
            kick: event(),
            call: event(),
            sent: 0,
        };
        guest.set_up();
        // Version 7.38, without any feature.
        let hello = bytes!(7_u32, 38_u32, 0x2_0000_u32, 0_u32, 0_u32);
        guest
            .ask(op::INIT, ROOT, &[hello, vec![0; 44]].concat())
            .unwrap();
        guest
    }

    /// Speaks vhost-user: the memory, and one queue in it.
    fn set_up(&mut self) {
        const FEATURES: u64 = 1 << 32 | 1 << 30;
        self.tell(3, &[], &[]);
        self.tell(2, &bytes!(FEATURES), &[]);
        self.tell(16, &bytes!(0_u64), &[]);
        let table = bytes!(1_u32, 0_u32, 0_u64, MEMORY, AT, 0_u64);
        self.tell(5, &table, &[self.memory.as_fd()]);
        // The second queue takes requests.
        for queue in [0_u32, 1] {
            self.tell(8, &bytes!(queue, u32::from(QUEUE)), &[]);
            let places = bytes!(
                queue,
                0_u32,
                AT + DESCRIPTORS,
                AT + USED,
                AT + AVAILABLE,
                0_u64
            );
            self.tell(9, &places, &[]);
            self.tell(10, &bytes!(queue, 0_u32), &[]);
            self.tell(12, &bytes!(u64::from(queue)), &[self.kick.as_fd()]);
            self.tell(13, &bytes!(u64::from(queue)), &[self.call.as_fd()]);
            if queue == 1 {
                self.tell(18, &bytes!(queue, 1_u32), &[]);
            }
        }
    }

    fn tell(&self, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let length = u32::try_from(body.len()).unwrap();
        let message = [bytes!(request, 1_u32, length), body.to_vec()].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(with.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let sent = rustix::net::sendmsg(
            &self.vhost,
            &[IoSlice::new(&message)],
            &mut with,
            SendFlags::NOSIGNAL,
        );
        assert_eq!(sent.unwrap(), message.len());
    }

    /// Sends a message whose header tells the truth; gives what came back, or the error's number.
    fn ask(&mut self, operation: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let length = u32::try_from(40 + body.len()).unwrap();
        self.send(operation, node, length, body)
            .expect("the server lives")
    }

    /// Sends a message with any length in its header; nothing comes back of a server that has ended.
    fn send(
        &mut self,
        operation: u32,
        node: u64,
        length: u32,
        body: &[u8],
    ) -> Option<Result<Vec<u8>, i32>> {
        let header = bytes!(length, operation, 7_u64, node, 0_u32, 0_u32, 1_u32, 0_u32);
        let request = [header, body.to_vec()].concat();
        self.memory.write_all_at(&request, REQUEST).unwrap();
        self.memory.write_all_at(&[0; 16], REPLY).unwrap();
        let size = u32::try_from(request.len()).unwrap();
        let chain = [
            bytes!(REQUEST, size, 1_u16, 1_u16),
            bytes!(REPLY, ROOM, 2_u16, 0_u16),
        ];
        self.memory
            .write_all_at(&chain.concat(), DESCRIPTORS)
            .unwrap();
        let slot = u64::from(self.sent % QUEUE);
        self.memory
            .write_all_at(&bytes!(0_u16), AVAILABLE + 4 + 2 * slot)
            .unwrap();
        self.sent = self.sent.wrapping_add(1);
        self.memory
            .write_all_at(&bytes!(self.sent), AVAILABLE + 2)
            .unwrap();
        rustix::io::write(&self.kick, &bytes!(1_u64)).unwrap();
        while self.used() != self.sent {
            if !self.wait() {
                return None;
            }
        }
        let mut head = [0; 16];
        self.memory.read_exact_at(&mut head, REPLY).unwrap();
        let number = |at: usize| i32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        // A forgotten inode has no answer.
        let length = usize::try_from(number(0)).unwrap().max(16);
        assert!(length <= ROOM as usize);
        match number(4) {
            0 => {
                let mut reply = vec![0; length - 16];
                self.memory.read_exact_at(&mut reply, REPLY + 16).unwrap();
                Some(Ok(reply))
            }
            error => Some(Err(-error)),
        }
    }

    fn used(&self) -> u16 {
        let mut index = [0; 2];
        self.memory.read_exact_at(&mut index, USED + 2).unwrap();
        u16::from_le_bytes(index)
    }

    /// Waits until the server has something to say; whether it lives.
    fn wait(&mut self) -> bool {
        let limit = Timespec {
            tv_sec: PATIENCE.as_secs().try_into().unwrap(),
            tv_nsec: 0,
        };
        let mut fds = [
            PollFd::new(&self.call, PollFlags::IN),
            PollFd::new(&self.vhost, PollFlags::IN),
        ];
        assert!(
            rustix::event::poll(&mut fds, Some(&limit)).unwrap() > 0,
            "the server says nothing"
        );
        let [called, hung_up] = [0, 1].map(|n: usize| !fds[n].revents().is_empty());
        if called {
            rustix::io::read(&self.call, &mut [0; 8]).unwrap();
        }
        !hung_up || called
    }

    fn lookup(&mut self, name: &str) -> Result<u64, i32> {
        let found = self.ask(op::LOOKUP, ROOT, &text(name))?;
        Ok(u64::from_le_bytes(found[..8].try_into().unwrap()))
    }

    fn open(&mut self, node: u64) -> u64 {
        let flags = libc::O_RDWR as u32;
        let opened = self.ask(op::OPEN, node, &bytes!(flags, 0_u32)).unwrap();
        u64::from_le_bytes(opened[..8].try_into().unwrap())
    }

    fn read(&mut self, node: u64, handle: u64, size: u32) -> Result<Vec<u8>, i32> {
        self.ask(
            op::READ,
            node,
            &bytes!(handle, 0_u64, size, 0_u32, 0_u64, 0_u32, 0_u32),
        )
    }

    /// The most memory that the server had, in MiB.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib >> 10
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        if std::thread::panicking() {
            let mut said = String::new();
            let _ = self.server.stderr.take().unwrap().read_to_string(&mut said);
            eprintln!("the server said: {said}");
        }
    }
}

/// A name, which ends in a zero.
fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// A directory with a share, and beside it what no guest may touch.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for dir in ["share", "share/dir", "outside"] {
        fs::create_dir(home.path().join(dir)).unwrap();
    }
    for file in ["share/one", "share/two", "outside/secret"] {
        fs::write(home.path().join(file), file).unwrap();
    }
    home
}

/// Checks that what is outside is as it was.
fn unharmed(home: &Path) {
    let names = |dir: &str| {
        let entries = fs::read_dir(home.join(dir)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("."), ["outside", "share"]);
    assert_eq!(names("outside"), ["secret"]);
    assert_eq!(
        fs::read_to_string(home.join("outside/secret")).unwrap(),
        "outside/secret"
    );
}

/// Names that lead somewhere else.
const NAMES: [&str; 10] = [
    "",
    ".",
    "..",
    "/",
    "a/b",
    "../outside",
    "../outside/secret",
    "dir/../one",
    "/etc/passwd",
    "one/",
];

#[test]
fn no_name_leads_out_of_the_share_by_any_operation() {
    let home = home();
    let mut guest = Hostile::new(&home.path().join("share"));
    let one = guest.lookup("one").unwrap();
    let file = libc::S_IFREG | 0o600;
    for name in NAMES {
        let name = text(name);
        let with = |body: &[u8]| [body, &name].concat();
        let beside = |body: &[u8]| [body, &text("one"), &name].concat();
        let both = |body: &[u8]| [body, &name, &text("new")].concat();
        let asked = [
            ("LOOKUP", op::LOOKUP, name.clone()),
            ("UNLINK", op::UNLINK, name.clone()),
            ("RMDIR", op::RMDIR, name.clone()),
            (
                "SYMLINK",
                op::SYMLINK,
                [&name[..], &text("/etc/passwd")].concat(),
            ),
            ("MKDIR", op::MKDIR, with(&bytes!(0o700_u32, 0_u32))),
            ("MKNOD", op::MKNOD, with(&bytes!(file, 0_u32, 0_u32, 0_u32))),
            ("LINK", op::LINK, with(&bytes!(one))),
            (
                "CREATE",
                op::CREATE,
                with(&bytes!(libc::O_RDWR as u32, file, 0_u32, 0_u32)),
            ),
            ("RENAME to it", op::RENAME, beside(&bytes!(ROOT))),
            ("RENAME of it", op::RENAME, both(&bytes!(ROOT))),
            (
                "RENAME2 to it",
                op::RENAME2,
                beside(&bytes!(ROOT, 0_u32, 0_u32)),
            ),
            (
                "RENAME2 of it",
                op::RENAME2,
                both(&bytes!(ROOT, 0_u32, 0_u32)),
            ),
        ];
        for (what, operation, body) in asked {
            let answer = guest.ask(operation, ROOT, &body);
            assert!(
                answer.is_err(),
                "{what} {:?}: {answer:?}",
                String::from_utf8_lossy(&name)
            );
            unharmed(home.path());
        }
    }
    assert_eq!(fs::read_dir(home.path().join("share")).unwrap().count(), 3);
    // A device, and whatever lends its owner's rights.
    let mknod = |mode: u32| [bytes!(mode, 0x103_u32, 0_u32, 0_u32), text("device")].concat();
    for kind in [libc::S_IFBLK, libc::S_IFCHR, libc::S_IFDIR] {
        assert_eq!(
            guest.ask(op::MKNOD, ROOT, &mknod(kind | 0o600)),
            Err(libc::EPERM)
        );
    }
}

#[test]
fn handles_and_inodes_that_do_not_belong_together_or_are_gone_are_refused() {
    let home = home();
    let mut guest = Hostile::new(&home.path().join("share"));
    let [one, two] = ["one", "two"].map(|name| guest.lookup(name).unwrap());
    let [first, second] = [one, two].map(|node| guest.open(node));
    assert_eq!(guest.read(one, first, 100).unwrap(), b"share/one");
    for (what, node, handle) in [
        ("another file's handle", one, second),
        ("another file's handle", two, first),
        ("no handle", one, 0xdead),
        ("the highest handle", one, u64::MAX),
        ("a dead inode", 0xdead, first),
        ("inode 0", 0, first),
        ("the highest inode", u64::MAX, first),
    ] {
        let answer = guest.read(node, handle, 100);
        assert_eq!(answer, Err(libc::EBADF), "{what}");
        let write = bytes!(handle, 0_u64, 3_u32, 0_u32, 0_u64, 0_u32, 0_u32);
        let answer = guest.ask(op::WRITE, node, &[write, b"bad".to_vec()].concat());
        assert_eq!(answer, Err(libc::EBADF), "{what}");
    }
    for node in [0, 0xdead, u64::MAX] {
        let answer = guest.ask(op::GETATTR, node, &bytes!(0_u32, 0_u32, 0_u64));
        assert_eq!(answer, Err(libc::EBADF));
        assert!(guest.ask(op::LOOKUP, node, &text("one")).is_err());
    }
    // Forgotten more often than it was ever known, by itself and with many that never were.
    for _ in 0..2 {
        let _ = guest.ask(op::FORGET, two, &bytes!(u64::MAX));
    }
    let many: Vec<u8> = (0..1000_u64)
        .flat_map(|node| bytes!(node + 0xdead, u64::MAX))
        .collect();
    let _ = guest.ask(
        op::BATCH_FORGET,
        0,
        &[bytes!(1000_u32, 0_u32), many].concat(),
    );
    assert_eq!(
        guest.read(one, first, 100).unwrap(),
        b"share/one",
        "the other inodes must stay known"
    );
    unharmed(home.path());
}

#[test]
fn no_count_from_a_guest_is_trusted() {
    let home = home();
    let share = home.path().join("share");
    let mut guest = Hostile::new(&share);
    let one = guest.lookup("one").unwrap();
    let handle = guest.open(one);
    let dir = guest.ask(op::OPENDIR, ROOT, &bytes!(0_u32, 0_u32)).unwrap();
    let dir = u64::from_le_bytes(dir[..8].try_into().unwrap());
    let huge = u32::MAX;
    let [read, list] =
        [handle, dir].map(|handle| bytes!(handle, 0_u64, huge, 0_u32, 0_u64, 0_u32, 0_u32));
    let asked = [
        ("READ", op::READ, one, read),
        ("READDIR", op::READDIR, ROOT, list.clone()),
        ("READDIRPLUS", 44, ROOT, list),
        (
            "GETXATTR",
            op::GETXATTR,
            one,
            [bytes!(huge, 0_u32), text("user.a")].concat(),
        ),
        ("LISTXATTR", op::LISTXATTR, one, bytes!(huge, 0_u32)),
        (
            "SETXATTR",
            op::SETXATTR,
            one,
            [bytes!(huge, 0_u32), text("user.a"), b"v".to_vec()].concat(),
        ),
        ("BATCH_FORGET", op::BATCH_FORGET, 0, bytes!(huge, 0_u32)),
        (
            "WRITE",
            op::WRITE,
            one,
            [
                bytes!(handle, 0_u64, huge, 0_u32, 0_u64, 0_u32, 0_u32),
                vec![1; 10],
            ]
            .concat(),
        ),
        (
            "WRITE far away",
            op::WRITE,
            one,
            [
                bytes!(handle, u64::MAX - 1, 4_u32, 0_u32, 0_u64, 0_u32, 0_u32),
                vec![1; 4],
            ]
            .concat(),
        ),
        (
            "FALLOCATE",
            op::FALLOCATE,
            one,
            bytes!(handle, u64::MAX, u64::MAX, 0_u32, 0_u32),
        ),
        (
            "COPY_FILE_RANGE",
            op::COPY_FILE_RANGE,
            one,
            bytes!(handle, u64::MAX, one, handle, u64::MAX, u64::MAX, u64::MAX),
        ),
    ];
    for (what, operation, node, body) in asked {
        let length = u32::try_from(40 + body.len()).unwrap();
        match guest.send(operation, node, length, &body) {
            Some(_) => assert!(
                guest.peak() < 200,
                "{what} had it take {} MiB",
                guest.peak()
            ),
            // A request that contradicts itself may end the server, and with it the VM: that is its guest's own.
            None => {
                guest = Hostile::new(&share);
                assert_eq!(guest.lookup("one"), Ok(one));
                assert_eq!(guest.open(one), handle);
                guest.ask(op::OPENDIR, ROOT, &bytes!(0_u32, 0_u32)).unwrap();
            }
        }
    }
    assert!(fs::metadata(share.join("one")).unwrap().len() < 100);
    unharmed(home.path());
}

#[test]
fn an_invalid_message_does_no_harm() {
    let home = home();
    let share = home.path().join("share");
    let mut guest = Hostile::new(&share);
    // Unknown operations are said to be unknown.
    for operation in [0, 7, 19, 53, 100, 4096, u32::MAX] {
        assert_eq!(
            guest.ask(operation, ROOT, &[0; 64]),
            Err(libc::ENOSYS),
            "{operation}"
        );
    }
    let bodies: [&[u8]; 6] = [
        &[],
        &[0],
        &[0xff; 8],
        &[0; 200],
        &[0xff; 200],
        &[b'/'; 4000],
    ];
    for operation in 1..=52 {
        // This one ends the file system, as it should.
        if operation == 38 {
            continue;
        }
        for body in bodies {
            for length in [40 + body.len() as u32, 0, 40, 1 << 20, u32::MAX] {
                if guest.send(operation, ROOT, length, body).is_none() {
                    guest = Hostile::new(&share);
                }
            }
            unharmed(home.path());
        }
        assert!(
            guest.peak() < 200,
            "operation {operation} had it take {} MiB",
            guest.peak()
        );
    }
    assert_eq!(fs::read_to_string(share.join("two")).unwrap(), "share/two");
}
