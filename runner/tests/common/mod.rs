//! A runner with a VM in it: the real program, a real qemu under translation, the kernel of this repository, and
//! a guest made of busybox that runs what comes in on the link.

// Each test program uses its own part of this.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use snowglobe_runner::{
    Accel, Action, Answer, DESCRIPTORS, Disk, DiskFormat, EngineSpec, Event, Isolation, Share,
    VmRequest, VmSpec,
};
use tempfile::TempDir;

/// How long anything may take: the machine may be busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

const RUNNER: &str = env!("CARGO_BIN_EXE_snowglobe-runner");

/// The kernel, unpacked once.
pub(crate) fn kernel() -> PathBuf {
    static KERNEL: OnceLock<PathBuf> = OnceLock::new();
    KERNEL
        .get_or_init(|| {
            let packed = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../images/kernel/vmlinux-x86_64.zst"
            );
            let kernel = zstd::decode_all(File::open(packed).unwrap()).unwrap();
            publish("vmlinux", &kernel)
        })
        .clone()
}

/// The users that the guest knows.
const USERS: &[u8] =
    b"root::0:0::/:/bin/sh\none::1000:1000::/:/bin/sh\ntwo::2000:2000::/:/bin/sh\n";

/// The guest's initramfs.
pub(crate) fn initramfs() -> PathBuf {
    static INITRAMFS: OnceLock<PathBuf> = OnceLock::new();
    INITRAMFS
        .get_or_init(|| {
            let busybox = fs::read("/bin/busybox").expect("install the package busybox-static");
            let mut archive = Vec::new();
            for directory in ["bin", "dev", "etc", "home", "snowglobe"] {
                add(&mut archive, directory, 0o040_755, b"");
            }
            add(&mut archive, "etc/passwd", 0o100_644, USERS);
            add(
                &mut archive,
                "etc/group",
                0o100_644,
                b"root:x:0:\none:x:1000:\ntwo:x:2000:\n",
            );
            add(&mut archive, "bin/busybox", 0o100_755, &busybox);
            add(
                &mut archive,
                "snowglobe/init",
                0o100_755,
                include_bytes!("guest.sh"),
            );
            let init = Path::new(RUNNER).with_file_name("snowglobe-init");
            let init = fs::read(&init).expect("build the workspace's programs");
            add(&mut archive, "bin/snowglobe-init", 0o100_755, &init);
            publish("initramfs", &cpio::newc::trailer(archive).unwrap())
        })
        .clone()
}

fn add(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let entry = cpio::newc::Builder::new(name).mode(mode).nlink(1);
    let mut writer = entry.write(archive, data.len().try_into().unwrap());
    writer.write_all(data).unwrap();
    writer.finish().unwrap();
}

/// Put a file where every test program finds it, whole or not at all; one that is there is never replaced, since a VM
/// may be about to open it.
fn publish(name: &str, data: &[u8]) -> PathBuf {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    data.hash(&mut hash);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = directory.join(format!("runner-{name}-{:016x}", hash.finish()));
    if path.exists() {
        return path;
    }
    let mut file = tempfile::NamedTempFile::new_in(directory).unwrap();
    file.write_all(data).unwrap();
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    match file.persist_noclobber(&path) {
        Err(error) if error.error.kind() != std::io::ErrorKind::AlreadyExists => {
            panic!("{error}")
        }
        Ok(_) | Err(_) => path,
    }
}

/// The qemu to test with: another version can be named in the environment.
fn qemu() -> PathBuf {
    std::env::var_os("SNOWGLOBE_TEST_QEMU")
        .map_or_else(|| "qemu-system-x86_64".into(), PathBuf::from)
}

/// A directory for one VM, and a spec for it.
pub(crate) struct Vm {
    pub(crate) directory: TempDir,
    pub(crate) spec: VmSpec,
    /// The user of the runner, where it is not the user of the tests.
    pub(crate) user: Option<u32>,
    /// The descriptors that the runner inherits.
    pub(crate) passed: Option<OwnedFd>,
    /// A command that becomes the runner, which is added to it.
    pub(crate) wrapper: Vec<String>,
}

impl Vm {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("sgr").tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let spec = VmSpec {
            // Unlike any other's, so that its processes can be found.
            name: directory
                .path()
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .into(),
            engine: EngineSpec::Qemu {
                binary: qemu(),
                accel: Accel::Tcg,
            },
            isolation: Isolation::Best,
            cpus: 1,
            memory_mib: 192,
            kernel: kernel(),
            initramfs: initramfs(),
            kernel_args: Vec::new(),
            disks: Vec::new(),
            shares: Vec::new(),
            link_socket: path("link"),
            link_name: "test".into(),
            link_port: 1,
            streams: None,
            console_log: path("console"),
            boot_timeout_s: 0,
            max_layer_bytes: None,
            remove: Vec::new(),
            remove_if_orphaned: Vec::new(),
        };
        Self {
            directory,
            spec,
            user: None,
            passed: None,
            wrapper: Vec::new(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file that the spec may name.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, name).unwrap();
        path
    }

    /// Share a new directory as `workspace`.
    pub(crate) fn share(&mut self) -> PathBuf {
        let path = self.path("shared");
        fs::create_dir(&path).unwrap();
        self.spec.shares.push(Share {
            opened: None,
            tag: "workspace".into(),
            port: 1026,
            path: path.clone(),
            guest_id: 1000,
            protection: Default::default(),
            hooks: Vec::new(),
            repository: None,
        });
        path
    }

    /// Makes a qcow2 layer, over `base` if there is one, and adds it to the VM's disks.
    pub(crate) fn add_layer(&mut self, layer: &Path, bytes: u64, base: Option<&Path>) {
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2"]);
        if let Some(base) = base {
            create.args(["-F", "raw", "-b"]).arg(base);
        }
        let made = create.arg(layer).arg(bytes.to_string()).status();
        assert!(made.unwrap().success(), "qemu-img made no layer");
        self.spec.disks.push(Disk {
            path: layer.to_owned(),
            format: DiskFormat::Qcow2,
            read_only: false,
            backing: base.map(Path::to_owned).into_iter().collect(),
            flushes: false,
        });
    }

    /// Start a runner, with a pipe of this process as its input.
    pub(crate) fn run(&self) -> Runner {
        let mut runner = self.run_with(Stdio::piped());
        let mut input = runner.child.stdin.take().unwrap();
        writeln!(input, "{}", self.line()).unwrap();
        runner.input = Some(input);
        runner
    }

    /// The spec's line.
    pub(crate) fn line(&self) -> String {
        serde_json::to_string(&self.spec).unwrap()
    }

    /// Start a runner with that input.
    pub(crate) fn run_with(&self, input: Stdio) -> Runner {
        let mut words = self.wrapper.iter().map(String::as_str).chain([RUNNER]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        command.stdin(input).stdout(Stdio::piped());
        if let Some(passed) = &self.passed {
            let mapping = FdMapping {
                parent_fd: passed.try_clone().unwrap(),
                child_fd: 3,
            };
            command.arg(format!("{DESCRIPTORS}1"));
            command.fd_mappings(vec![mapping]).unwrap();
        }
        if let Some(user) = self.user {
            let everything = Command::new("chown")
                .args(["-R", &format!("{user}:{user}")])
                .arg(self.directory.path())
                .status();
            assert!(everything.unwrap().success());
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                let _ = sender.send(serde_json::from_str(&line.unwrap()).unwrap());
            }
        });
        Runner {
            child,
            input: None,
            events,
            link: self.spec.link_socket.clone(),
            requests: 0,
        }
    }

    /// Start a runner, and wait for its VM and for its guest's answer.
    pub(crate) fn boot(&self) -> (Runner, Guest, Watched) {
        let runner = self.run();
        let engine = runner.started();
        let mut guest = runner.connect();
        assert_eq!(guest.run("echo hello"), "hello\n");
        (runner, guest, engine)
    }
}

/// A running runner.
pub(crate) struct Runner {
    pub(crate) child: Child,
    pub(crate) input: Option<ChildStdin>,
    events: Receiver<Event>,
    link: PathBuf,
    requests: u64,
}

impl Runner {
    pub(crate) fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("no event came")
    }

    /// Wait for the VM; a watch on its process.
    pub(crate) fn started(&self) -> Watched {
        match self.event() {
            Event::Started { pid, .. } => Watched::new(pid),
            other => panic!("{other:?}"),
        }
    }

    /// Wait for a failure to start; its stage and message.
    pub(crate) fn failed(mut self) -> (String, String) {
        match self.event() {
            Event::Failed { stage, message, .. } => {
                assert!(!self.end().success());
                (stage, message)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Wait for the VM's end.
    pub(crate) fn exited(&self) -> (bool, String, Vec<String>) {
        match self.event() {
            Event::Exited {
                clean,
                reason,
                console,
            } => (clean, reason, console),
            other => panic!("{other:?}"),
        }
    }

    /// Wait for the runner's end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        Watched::new(self.child.id()).ended();
        self.child.wait().unwrap()
    }

    pub(crate) fn connect(&self) -> Guest {
        let link = UnixStream::connect(&self.link).unwrap();
        link.set_read_timeout(Some(PATIENCE)).unwrap();
        Guest { link }
    }

    pub(crate) fn request(&mut self, action: Action) -> Result<Answer, String> {
        self.requests += 1;
        let request = VmRequest {
            id: self.requests,
            action,
        };
        let request = serde_json::to_string(&request).unwrap();
        writeln!(self.input.as_mut().unwrap(), "{request}").unwrap();
        match self.event() {
            Event::Reply { id, result } if id == self.requests => result,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        drop(self.input.take());
        if thread::panicking() {
            for event in self.events.try_iter() {
                eprintln!("unread: {event:?}");
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The guest's end of the link.
pub(crate) struct Guest {
    link: UnixStream,
}

impl Guest {
    /// Mounts a share.
    pub(crate) fn mount(&mut self, tag: &str, path: &str) {
        self.run(&format!(
            "snowglobe-init mount {tag} {path} </dev/null >/dev/console 2>&1 & \
             until grep -q ' {path} fuse' /proc/mounts; do usleep 10000; done"
        ));
    }

    /// Have the guest's shell run a line; what it wrote.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let (status, output) = self.try_run(line);
        assert_eq!(status, 0, "{line}: {output}");
        output
    }

    /// Have the guest's shell run a line; its status and what it wrote.
    pub(crate) fn try_run(&mut self, line: &str) -> (i32, String) {
        self.send(line);
        self.answer()
    }

    /// The status and the output of the line that was sent.
    pub(crate) fn answer(&mut self) -> (i32, String) {
        let mut output = Vec::new();
        let mut byte = [0];
        loop {
            self.link.read_exact(&mut byte).unwrap();
            output.push(byte[0]);
            if byte[0] != b'\n' {
                continue;
            }
            let text = String::from_utf8_lossy(&output);
            if let Some((said, status)) = text.trim_end().rsplit_once('\x01')
                && let Ok(status) = status.parse()
            {
                return (status, said.to_owned());
            }
        }
    }

    /// Send a line and don't wait.
    pub(crate) fn send(&mut self, line: &str) {
        assert!(!line.contains('\n'));
        writeln!(self.link, "{line}").unwrap();
    }
}

/// Waits for the end of a process that need not be a child.
pub(crate) struct Watched(Option<OwnedFd>);

impl Watched {
    pub(crate) fn new(pid: u32) -> Self {
        let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Self(Some(fd)),
            Err(rustix::io::Errno::SRCH) => Self(None),
            Err(error) => panic!("{error}"),
        }
    }

    /// Wait for its end.
    pub(crate) fn ended(&self) {
        let Some(fd) = &self.0 else { return };
        let limit = Timespec {
            tv_sec: PATIENCE.as_secs().try_into().unwrap(),
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        assert_eq!(
            poll(&mut fds, Some(&limit)),
            Ok(1),
            "the process still runs"
        );
    }
}

/// What a process that is the runner's program again was told on its standard input, a file in memory.
fn order(pid: u32) -> String {
    let input = format!("/proc/{pid}/fd/0");
    let name = fs::read_link(&input).unwrap_or_default();
    match name.to_string_lossy().starts_with("/memfd:order") {
        true => fs::read_to_string(&input).unwrap_or_default(),
        false => String::new(),
    }
}

/// The processes that serve a VM's shares.
pub(crate) fn share_servers(vm: &Vm) -> Vec<u32> {
    let is_share = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"share")
    };
    let mut all = processes_with(vm.directory.path().to_str().unwrap());
    all.retain(is_share);
    all
}

/// The processes that have `text` in their command line.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_str()?.parse().ok()
    });
    numbers
        .filter(|pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text) || order(*pid).contains(text)
        })
        .collect()
}
