//! A guest whose kernel is hostile: raw FUSE messages to the server of a share, as a virtual machine would send them. The
//! server runs here without its namespaces, so what holds is what it checks itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a message may take: the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most that a reply may have.
const ROOM: u32 = (1 << 20) + 16;

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
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const SETXATTR: u32 = 21;
    pub(super) const GETXATTR: u32 = 22;
    pub(super) const LISTXATTR: u32 = 23;
    pub(super) const INIT: u32 = 26;
    pub(super) const READDIR: u32 = 28;
    pub(super) const CREATE: u32 = 35;
    pub(super) const INTERRUPT: u32 = 36;
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
    stream: UnixStream,
    _runner: UnixStream,
}

impl Hostile {
    /// A server of `share`, and a guest that has said hello.
    fn new(share: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let order = serde_json::json!({"share": {"tag": "workspace", "port": 1026, "path": share, "guest_id": 1000}});
        let mut command = Command::new(env!("CARGO_BIN_EXE_snowglobe-runner"));
        command
            .current_dir(share)
            .arg("share")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        let (runner, its_runner) = UnixStream::pair().unwrap();
        // SAFETY: duplicates two descriptors between fork and exec, and nothing else. The first copies are above both numbers.
        unsafe {
            command.pre_exec(move || {
                let high = [listener.as_raw_fd(), its_runner.as_raw_fd()]
                    .map(|fd| libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10));
                let taken = [libc::dup2(high[0], 3), libc::dup2(high[1], 4)];
                match high.iter().chain(&taken).any(|fd| *fd == -1) {
                    true => Err(std::io::Error::last_os_error()),
                    false => Ok(()),
                }
            });
        }
        let mut server = command.spawn().unwrap();
        let mut input = server.stdin.take().unwrap();
        input.write_all(order.to_string().as_bytes()).unwrap();
        drop(input);
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut guest = Self {
            server,
            stream,
            _runner: runner,
        };
        // Version 7.38; files and directories are opened without a message.
        const FEATURES: u32 = 1 << 17 | 1 << 24;
        let hello = bytes!(7_u32, 38_u32, 0x2_0000_u32, FEATURES, 0_u32);
        guest
            .ask(op::INIT, ROOT, &[hello, vec![0; 44]].concat())
            .unwrap();
        guest
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
        if self.stream.write_all(&request).is_err() {
            return None;
        }
        if length as usize != request.len() {
            // What follows means something else now: there is no more, and the server says what it can.
            self.stream.shutdown(Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            let _ = self.stream.read_to_end(&mut rest);
            return None;
        }
        if matches!(operation, op::FORGET | op::BATCH_FORGET | op::INTERRUPT) {
            return Some(Ok(Vec::new()));
        }
        let mut head = [0; 16];
        self.stream.read_exact(&mut head).ok()?;
        let number = |at: usize| i32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let length = u32::try_from(number(0)).unwrap();
        assert!((16..=ROOM).contains(&length), "{length}");
        assert_eq!(number(8), 7, "the reply to another request");
        let mut reply = vec![0; length as usize - 16];
        self.stream.read_exact(&mut reply).unwrap();
        match number(4) {
            0 => Some(Ok(reply)),
            error => Some(Err(-error)),
        }
    }

    fn lookup(&mut self, name: &str) -> Result<u64, i32> {
        let found = self.ask(op::LOOKUP, ROOT, &text(name))?;
        Ok(u64::from_le_bytes(found[..8].try_into().unwrap()))
    }

    fn read(&mut self, node: u64, size: u32) -> Result<Vec<u8>, i32> {
        self.ask(
            op::READ,
            node,
            &bytes!(0_u64, 0_u64, size, 0_u32, 0_u64, 0_u32, 0_u32),
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
fn inodes_that_are_gone_or_never_were_are_refused() {
    let home = home();
    let mut guest = Hostile::new(&home.path().join("share"));
    let [one, two] = ["one", "two"].map(|name| guest.lookup(name).unwrap());
    assert_eq!(guest.read(one, 100).unwrap(), b"share/one");
    for node in [0, 0xdead, u64::MAX] {
        assert_eq!(guest.read(node, 100), Err(libc::ESTALE), "{node}");
        let write = bytes!(0_u64, 0_u64, 3_u32, 0_u32, 0_u64, 0_u32, 0_u32);
        let answer = guest.ask(op::WRITE, node, &[write, b"bad".to_vec()].concat());
        assert_eq!(answer, Err(libc::ESTALE), "{node}");
        let answer = guest.ask(op::GETATTR, node, &bytes!(0_u32, 0_u32, 0_u64));
        assert_eq!(answer, Err(libc::ESTALE), "{node}");
        assert!(guest.ask(op::LOOKUP, node, &text("one")).is_err());
        assert!(
            guest
                .ask(
                    op::MKDIR,
                    node,
                    &[bytes!(0o700_u32, 0_u32), text("new")].concat()
                )
                .is_err()
        );
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
        guest.read(one, 100).unwrap(),
        b"share/one",
        "the other inodes must stay known"
    );
    assert_eq!(guest.read(two, 100), Err(libc::ESTALE));
    // The root stays, whatever was said.
    let _ = guest.ask(op::FORGET, ROOT, &bytes!(u64::MAX));
    assert!(guest.lookup("two").is_ok());
    unharmed(home.path());
}

#[test]
fn no_count_from_a_guest_is_trusted() {
    let home = home();
    let share = home.path().join("share");
    let mut guest = Hostile::new(&share);
    let one = guest.lookup("one").unwrap();
    let handle = 0_u64;
    let huge = u32::MAX;
    let read = bytes!(handle, 0_u64, huge, 0_u32, 0_u64, 0_u32, 0_u32);
    let list = read.clone();
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
