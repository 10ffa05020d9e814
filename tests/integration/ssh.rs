//! The user's own ssh, scp and sftp, and the way in which editors start their remote servers over them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use crate::common::{Place, eventually, lossy, runs, soon};
use serde_json::{Value, json};

/// The user's ssh, with the configuration that a place's project has installed in a home directory of its own.
struct Ssh<'a> {
    place: &'a Place,
    config: PathBuf,
    host: String,
}

impl<'a> Ssh<'a> {
    /// Installs the hosts, before any sandbox runs.
    async fn installed(place: &'a Place) -> Self {
        let home = place.dir.path().join("a home");
        std::fs::create_dir(&home).unwrap();
        let mut command = place.command(&["ssh-config", "--install"]);
        command
            .env("HOME", &home)
            .env("SNOWGLOBE_DATA_DIR", Place::data_dir());
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = lossy(&output.stderr);
        assert!(
            said.contains("Include") && said.contains("ssh snowglobe-"),
            "{said}"
        );
        Self {
            place,
            config: home.join(".ssh/config"),
            host: format!("snowglobe-{}", place.name()),
        }
    }

    /// A program of OpenSSH's, started as by an editor: somewhere else, and without Snowglobe's variables.
    fn program(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-F")
            .arg(&self.config)
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", std::env::var_os("HOME").unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.program(program, arguments).output().unwrap()
    }

    /// Standard output of a command in the sandbox; it must work.
    fn output(&self, arguments: &[&str]) -> String {
        let output = self.run("ssh", &[&[self.host.as_str()], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        lossy(&output.stdout)
    }
}

/// A port that nothing listens on now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn connect(port: u16) -> TcpStream {
    let began = Instant::now();
    loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            return stream;
        }
        soon(began);
        std::thread::yield_now();
    }
}

/// Asks a web server for a path; gives the body.
fn get(mut stream: TcpStream, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.contains(" 200 "), "{head}");
    body.to_owned()
}

/// A connection to a port of the guest, through a SOCKS proxy on a port here.
fn through_socks(proxy: u16, port: u16) -> TcpStream {
    let mut stream = connect(proxy);
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).unwrap();
    assert_eq!(chosen, [5, 0]);
    let mut ask = vec![5, 1, 0, 1, 127, 0, 0, 1];
    ask.extend(port.to_be_bytes());
    stream.write_all(&ask).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[1], 0, "{answer:?}");
    stream
}

/// What Visual Studio Code sends: unpack a server below home unless it is there, start it in the background, print where
/// it listens between markers. A small web server stands for the editor's.
const EDITOR: &str = r#"
uname -sm
echo "7f3a: running"
dir="$HOME/.editor-server"
if [ ! -f "$dir/server.py" ]; then
    mkdir -p "$dir" && cat >"$dir/server.py" <<'END'
import functools, http.server, os
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=os.environ["SERVED"])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
print(server.server_address[1], flush=True)
server.serve_forever()
END
fi
if ! kill -0 "$(cat "$dir/pid" 2>/dev/null)" 2>/dev/null; then
    : >"$dir/log"
    SERVED=/workspace nohup setsid python3 "$dir/server.py" >"$dir/log" 2>"$dir/errors" </dev/null &
    echo $! >"$dir/pid"
fi
while [ ! -s "$dir/log" ]; do sleep 0.1; done
echo "7f3a: start"
echo "listeningOn==$(cat "$dir/log")=="
echo "pid==$(cat "$dir/pid")=="
echo "connectionToken==t=="
echo "7f3a: end"
while read -r line; do :; done
"#;

/// Starts the editor's server as Visual Studio Code does; gives ssh, the port here, the server's port and its process.
fn start_editor(ssh: &Ssh<'_>) -> (Child, u16, u16, String) {
    let proxy = free_port();
    let arguments = [
        "-T",
        "-o",
        "ConnectTimeout=60",
        "-D",
        &proxy.to_string(),
        &ssh.host,
        "bash",
    ];
    let mut child = ssh
        .program("ssh", &arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(EDITOR.as_bytes())
        .unwrap();
    let mut values = std::collections::BTreeMap::new();
    let mut said = String::new();
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
        let line = line.unwrap();
        said.push_str(&format!("{line}\n"));
        if let Some((key, value)) = line.split_once("==") {
            values.insert(key.to_owned(), value.trim_end_matches('=').to_owned());
        }
        if line == "7f3a: end" {
            break;
        }
    }
    assert!(said.contains("Linux"), "{said}");
    let port = values["listeningOn"].parse().unwrap();
    (child, proxy, port, values["pid"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_stay_valid_and_editors_start_their_servers_over_them() {
    let mut place = Place::new("debian");
    place.workspace = place.dir.path().join("a work's space, 100%h");
    std::fs::create_dir(&place.workspace).unwrap();
    std::fs::write(place.workspace.join("page"), "from the workspace").unwrap();
    let ssh = Ssh::installed(&place).await;
    // The first connection starts the sandbox; nothing but the command's output is said in a pipe.
    let output = ssh.run("ssh", &[&ssh.host, "pwd; whoami; echo $HOME"]);
    assert_eq!(
        lossy(&output.stdout),
        "/workspace\nsandbox\n/home/sandbox\n",
        "{output:?}"
    );
    let said = lossy(&output.stderr);
    assert!(
        said.lines()
            .all(|line| line.contains("shuts the VM off less")),
        "{said}"
    );
    let root = format!("{}-root", ssh.host);
    assert_eq!(lossy(&ssh.run("ssh", &[&root, "id -un"]).stdout), "root\n");

    // Visual Studio Code: its server outlives the connection that started it, and is found again.
    let (mut child, proxy, port, pid) = start_editor(&ssh);
    assert_eq!(
        get(through_socks(proxy, port), "/page"),
        "from the workspace"
    );
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let (mut child, proxy, again, same) = start_editor(&ssh);
    assert_eq!((again, &same), (port, &pid));
    assert_eq!(
        get(through_socks(proxy, port), "/page"),
        "from the workspace"
    );
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());

    gateway(&ssh, port);
    copies(&ssh);
    refusals(&ssh);

    // Keys and hosts are the same in the next sandbox, which ssh starts.
    let (code, _, err) = place.run(&["stop"]).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(ssh.output(&["echo again"]), "again\n");

    // `rm` takes the hosts with the sandbox's other data, and says so.
    let hosts = Place::data_dir().join(format!("ssh/{}.conf", place.name()));
    assert!(hosts.exists());
    let (code, _, err) = place.run(&["rm", "--force", "--yes"]).await;
    assert!(code == 0 && err.contains("ssh hosts"), "{err}");
    assert!(!hosts.exists());
    let output = ssh.run("ssh", &[&ssh.host, "true"]);
    assert!(!output.status.success(), "{output:?}");
}

/// JetBrains Gateway: several commands, an upload by sftp, a backend in the background, a forwarded port, all over one
/// connection.
fn gateway(ssh: &Ssh<'_>, served: u16) {
    let socket = ssh.place.dir.path().join("mux");
    let path = format!("ControlPath={}", socket.display());
    let shared = [
        "-o",
        "ControlMaster=auto",
        "-o",
        &path,
        "-o",
        "ControlPersist=60",
    ];
    let run = |program: &str, arguments: &[&str]| {
        let output = ssh
            .program(program, &[&shared, arguments].concat())
            // The connection that stays must not hold these.
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}"
        );
        lossy(&output.stdout)
    };
    assert_eq!(run("ssh", &[&ssh.host, "uname -s"]), "Linux\n");
    let upload = ssh.place.dir.path().join("backend.sh");
    std::fs::write(
        &upload,
        "#!/bin/sh\necho ready >$HOME/.cache/ide/state\nexec sleep 600\n",
    )
    .unwrap();
    let batch = ssh.place.dir.path().join("batch");
    let steps = format!(
        "-mkdir /home/sandbox/.cache\nmkdir /home/sandbox/.cache/ide\nput {} /home/sandbox/.cache/ide/backend.sh\n\
         chmod 755 /home/sandbox/.cache/ide/backend.sh\npwd\n",
        upload.display()
    );
    std::fs::write(&batch, steps).unwrap();
    let said = run("sftp", &["-b", batch.to_str().unwrap(), &ssh.host]);
    assert!(
        said.contains("directory: /home/sandbox"),
        "sftp starts at home: {said}"
    );
    let start = "cd ~/.cache/ide && (setsid ./backend.sh >log 2>&1 </dev/null & echo $! >pid); \
                 until [ -s state ]; do sleep 0.1; done; cat state";
    assert_eq!(run("ssh", &[&ssh.host, start]), "ready\n");
    let local = free_port();
    let forward = format!("{local}:127.0.0.1:{served}");
    run("ssh", &["-O", "forward", "-L", &forward, &ssh.host]);
    assert_eq!(get(connect(local), "/page"), "from the workspace");
    let local = free_port();
    let forward = format!("{local}:localhost:{served}");
    run("ssh", &["-O", "forward", "-L", &forward, &ssh.host]);
    assert_eq!(get(connect(local), "/page"), "from the workspace");
    // A shared connection can't be talked into more than it may: ssh's own end or the guest's server says no.
    let asks = [
        &shared[..],
        &["-O", "forward", "-R", "8080:127.0.0.1:1", &ssh.host],
    ]
    .concat();
    let output = ssh.run("ssh", &asks);
    assert!(!output.status.success(), "{output:?}");
    assert!(
        lossy(&output.stderr).contains("forwarding failed"),
        "{output:?}"
    );
    let output = ssh.run("ssh", &[&shared[..], &[&ssh.host, "true"]].concat());
    assert!(
        lossy(&output.stderr).contains("remote forwarding (-R"),
        "{output:?}"
    );
    run("ssh", &["-O", "exit", &ssh.host]);
    // The backend goes on without the connection.
    let alive = "kill -0 $(cat ~/.cache/ide/pid) && echo alive";
    assert_eq!(ssh.output(&[alive]), "alive\n");
}

/// scp and rsync carry every byte. scp's relative paths are at home, as `~/` is.
fn copies(ssh: &Ssh<'_>) {
    let every: Vec<u8> = (0..300_000u32).map(|n| (n % 256) as u8).collect();
    let (up, down) = (
        ssh.place.dir.path().join("up"),
        ssh.place.dir.path().join("down"),
    );
    std::fs::write(&up, &every).unwrap();
    for (to, there) in [
        ("copied", "/home/sandbox/copied"),
        ("~/again", "/home/sandbox/again"),
    ] {
        let remote = format!("{}:{to}", ssh.host);
        let output = ssh.run("scp", &["-q", up.to_str().unwrap(), &remote]);
        assert!(output.status.success(), "{output:?}");
        let remote = format!("{}:{there}", ssh.host);
        let output = ssh.run("scp", &["-q", &remote, down.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(std::fs::read(&down).unwrap(), every);
    }
    // rsync: relative paths are in the workspace.
    let remote = format!("{}:a b/", ssh.host);
    let shell = format!("ssh -F '{}'", ssh.config.display());
    for _ in 0..2 {
        let output = Command::new("rsync")
            .args(["-ai", "--mkpath", "-e", &shell])
            .arg(&up)
            .arg(&remote)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let there = ssh.place.workspace.join("a b/up");
    assert_eq!(std::fs::read(there).unwrap(), every);
}

/// What would give the guest a part of the user's computer is refused, and the reason is said.
fn refusals(ssh: &Ssh<'_>) {
    let agent = ssh.place.dir.path().join("agent");
    let _listening = std::os::unix::net::UnixListener::bind(&agent).unwrap();
    let forwarded = format!("ForwardAgent={}", agent.display());
    for (flags, says) in [
        (&["-A"][..], "the sandbox could use your keys"),
        (&["-o", &forwarded], "the sandbox could use your keys"),
        (&["-X"], "your screen"),
        (&["-Y"], "your screen"),
        (&["-R", "8080:127.0.0.1:1"], "-L, -D"),
        (&["-N", "-R", "/tmp/s:127.0.0.1:1"], "-L, -D"),
    ] {
        let output = ssh
            .program("ssh", &[flags, &[&ssh.host, "echo reached"]].concat())
            .env("SSH_AUTH_SOCK", &agent)
            .env("DISPLAY", ":0")
            .output()
            .unwrap();
        assert!(!output.status.success(), "{flags:?}: {output:?}");
        let err = lossy(&output.stderr);
        assert!(
            output.stdout.is_empty() && err.contains(says),
            "{flags:?}: {err}"
        );
    }
    // The user's own configuration may ask for these everywhere: the hosts' lines count first, and the guest's server
    // refuses what they can't take back.
    let text = std::fs::read_to_string(&ssh.config).unwrap();
    let all = "Host *\n  ForwardAgent yes\n  RemoteForward 8080 127.0.0.1:1\n";
    std::fs::write(&ssh.config, format!("{text}{all}")).unwrap();
    let output = ssh
        .program("ssh", &[&ssh.host, "echo \"<$SSH_AUTH_SOCK>\""])
        .env("SSH_AUTH_SOCK", &agent)
        .output()
        .unwrap();
    std::fs::write(&ssh.config, text).unwrap();
    assert_eq!(lossy(&output.stdout), "<>\n", "{output:?}");
    let err = lossy(&output.stderr);
    assert!(err.contains("remote port forwarding failed"), "{err}");
    assert!(err.contains("remote forwarding (-R"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_machine_goes_hears_why_and_the_next_works_at_once() {
    let place = Place::new("minimal");
    let ssh = Ssh::installed(&place).await;
    let open = || {
        let mut child = ssh
            .program(
                "ssh",
                &[
                    &ssh.host,
                    "echo open; cat /proc/sys/kernel/random/boot_id; exec sleep 600",
                ],
            )
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "open");
        (child, lines.next().unwrap().unwrap())
    };
    let ended = |child: Child, says: &str| {
        let output = child.wait_with_output().unwrap();
        let err = lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(255), "{err}");
        assert!(err.contains(says), "{err}");
    };
    let (child, first) = open();
    let session = place.serve_kept().await;
    session.call("reboot", json!({})).await;
    ended(child, "the sandbox was rebooted; connect again");
    let (child, second) = open();
    assert_ne!(first, second);
    session
        .call("snapshot", json!({"action": "save", "name": "s"}))
        .await;
    let (code, _, err) = place.run(&["snapshot", "restore", "s"]).await;
    assert_eq!(code, 0, "{err}");
    ended(
        child,
        "the sandbox was restored to a snapshot; connect again",
    );
    session.close().await;
    let (child, _) = open();
    let (code, out, err) = place.run(&["status", "--json"]).await;
    assert_eq!(code, 0, "{err}");
    let keeper: Value = serde_json::from_str(&out).unwrap();
    let keeper = u32::try_from(keeper["pid"].as_u64().unwrap()).unwrap();
    let (code, _, err) = place.run(&["stop"]).await;
    assert_eq!(code, 0, "{err}");
    ended(child, "the sandbox was stopped; connect again");
    eventually("its process is gone", || !runs(keeper)).await;
    // A sandbox that another key was made for since it was started does not know it.
    assert_eq!(ssh.output(&["echo again"]), "again\n");
    let mut instances = place.runtime_dir().read_dir().unwrap();
    let instance = instances.next().unwrap().unwrap().path();
    std::fs::write(instance.join("login.pub"), "another").unwrap();
    let output = ssh.run("ssh", &[&ssh.host, "true"]);
    let err = lossy(&output.stderr);
    assert!(
        !output.status.success() && err.contains("another key"),
        "{err}"
    );
    assert!(err.contains("snowglobe stop"), "{err}");
}
