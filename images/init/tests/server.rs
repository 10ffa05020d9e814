//! The guest's own server over an in-memory stream, with a real SSH client: everything that needs no VM.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use russh::client;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg};
use russh::{Channel, ChannelMsg};
use snowglobe_init::server::Server;
use snowglobe_init::wire::{
    self, Detach, EditRequest, ErrorKind, ExecReport, ExecRequest, FoundLine, JobAction, JobReport,
    JobRequest, Outcome, Program, PtySize, ReadContent, ReadRequest, ReadWant, Report, Request,
    SearchReport, SearchRequest, Stdin, User, WireError, WriteRequest,
};

mod support;

/// The time limit for events that should happen soon. It is long, since machines are shared; a failure takes several
/// times as long.
const SOON: Duration = Duration::from_secs(60);

struct AnyServer;

impl client::Handler for AnyServer {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

struct World {
    _dir: tempfile::TempDir,
    workspace: PathBuf,
    server: Arc<Server>,
    control: Arc<PrivateKey>,
    login: Arc<PrivateKey>,
}

fn key() -> Arc<PrivateKey> {
    Arc::new(PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap())
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let workspace = dir.path().join("workspace");
    std::fs::create_dir(&workspace).unwrap();
    let (host, control, login) = (key(), key(), key());
    let public = |key: &PrivateKey| key.public_key().to_openssh().unwrap();
    let server = support::server(
        dir.path(),
        workspace.clone(),
        host.to_openssh(LineEnding::LF).unwrap().to_string(),
        vec![public(&control)],
        vec![public(&login)],
    );
    World {
        _dir: dir,
        workspace,
        server,
        control,
        login,
    }
}

impl World {
    async fn connect(
        &self,
        user: &str,
        key: &Arc<PrivateKey>,
    ) -> Option<client::Handle<AnyServer>> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(snowglobe_init::server::serve(theirs, self.server.clone()));
        let mut handle = client::connect_stream(Arc::default(), ours, AnyServer)
            .await
            .unwrap();
        let key = PrivateKeyWithHashAlg::new(key.clone(), None);
        handle
            .authenticate_publickey(user, key)
            .await
            .unwrap()
            .success()
            .then_some(handle)
    }

    async fn control(&self) -> client::Handle<AnyServer> {
        self.connect("root", &self.control)
            .await
            .expect("the control key is admitted")
    }
}

#[derive(Default, Debug)]
struct Answer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    report: Option<Report>,
}

async fn send(
    handle: &client::Handle<AnyServer>,
    request: &Request,
    input: &[u8],
) -> Channel<client::Msg> {
    let channel = handle.channel_open_session().await.unwrap();
    channel
        .request_subsystem(false, wire::SUBSYSTEM)
        .await
        .unwrap();
    let body = serde_json::to_vec(request).unwrap();
    let mut head = (body.len() as u32).to_be_bytes().to_vec();
    head.extend(body);
    channel.data_bytes(head).await.unwrap();
    channel.data_bytes(input.to_vec()).await.unwrap();
    channel.eof().await.unwrap();
    channel
}

async fn collect(mut channel: Channel<client::Msg>) -> Answer {
    let (mut answer, mut report) = (Answer::default(), Vec::new());
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => answer.stdout.extend_from_slice(&data),
            ChannelMsg::ExtendedData {
                data,
                ext: wire::EXT_STDERR,
            } => answer.stderr.extend_from_slice(&data),
            ChannelMsg::ExtendedData {
                data,
                ext: wire::EXT_REPORT,
            } => report.extend_from_slice(&data),
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    answer.report = serde_json::from_slice(&report).ok();
    answer
}

async fn ask(handle: &client::Handle<AnyServer>, request: Request, input: &[u8]) -> Answer {
    collect(send(handle, &request, input).await).await
}

fn shell(line: &str) -> ExecRequest {
    ExecRequest {
        command: Program::Shell(line.into()),
        cwd: None,
        env: BTreeMap::new(),
        user: User::Sandbox,
        stdin: Stdin::Input,
        timeout_ms: None,
        spill_after: None,
        pty: None,
        detach: None,
    }
}

async fn run(handle: &client::Handle<AnyServer>, request: ExecRequest) -> (Answer, ExecReport) {
    let answer = ask(handle, Request::Exec(request), b"").await;
    match answer.report.clone() {
        Some(Report::Exec(report)) => (answer, report),
        other => panic!("expected a command's report, got {other:?}"),
    }
}

fn error(answer: Answer) -> WireError {
    match answer.report {
        Some(Report::Error(error)) => error,
        other => panic!("expected an error, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_line_states_the_version() {
    use tokio::io::AsyncBufReadExt;
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(snowglobe_init::server::serve(theirs, world().server));
    let mut line = String::new();
    let mut ours = tokio::io::BufReader::new(ours);
    ours.read_line(&mut line).await.unwrap();
    let stated = wire::Version::stated_by(line.trim_end().as_bytes());
    assert_eq!(stated, Some(wire::VERSION), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_in_a_directory_whatever_the_bytes_of_its_name() {
    use std::os::unix::ffi::OsStrExt;
    let world = world();
    let handle = world.control().await;
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    std::fs::create_dir(world.workspace.join(name)).unwrap();
    let mut request = shell("pwd");
    request.cwd = Some(format!("file://{}/caf%E9", world.workspace.display()));
    let (answer, report) = run(&handle, request).await;
    assert_eq!(report.outcome, Outcome::Exited { code: 0 });
    assert!(
        answer.stdout.ends_with(b"/caf\xe9\n"),
        "{:?}",
        answer.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_come_back_as_they_are() {
    let world = world();
    let handle = world.control().await;
    for code in [0, 1, 2, 42, 126, 127, 128, 200, 255] {
        let (_, report) = run(&handle, shell(&format!("exit {code}"))).await;
        assert_eq!(report.outcome, Outcome::Exited { code });
    }
    let (_, report) = run(&handle, shell("kill -TERM $$")).await;
    assert_eq!(
        report.outcome,
        Outcome::Signaled {
            signal: "TERM".into()
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_stay_apart_and_text_passes_unchanged() {
    let world = world();
    let handle = world.control().await;
    let text = "héllo wörld 世界 \"quotes\" 'single' $dollar `tick`\nnew line\t!";
    let mut request = shell("printf %s \"$TEXT\"; echo err >&2; cat >&2");
    request.env.insert("TEXT".into(), text.into());
    let answer = ask(&handle, Request::Exec(request), b"input\x01\xff").await;
    assert_eq!(String::from_utf8(answer.stdout).unwrap(), text);
    assert_eq!(answer.stderr, b"err\ninput\x01\xff");
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_are_no_text_keep_their_bytes() {
    let world = world();
    let handle = world.control().await;
    let odd = b"\xff\x80 a\xe9".to_vec();
    let mut request = shell("");
    request.command = Program::Argv(vec!["printf".into(), "%s".into(), odd.clone().into()]);
    let answer = ask(&handle, Request::Exec(request.clone()), b"").await;
    assert_eq!(answer.stdout, odd);
    let line = [b"printf %s '".to_vec(), odd.clone(), b"'".to_vec()].concat();
    request.command = Program::Shell(line.into());
    let answer = ask(&handle, Request::Exec(request), b"").await;
    assert_eq!(answer.stdout, odd);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_could_not_start_is_an_error_not_an_exit_code() {
    let world = world();
    let handle = world.control().await;
    let mut request = shell("true");
    request.cwd = Some("/no/such/dir".into());
    let refused = error(ask(&handle, Request::Exec(request), b"").await);
    assert_eq!(refused.kind, ErrorKind::NotFound);
    assert!(
        refused.message.contains("/no/such/dir"),
        "{}",
        refused.message
    );

    let mut request = shell("");
    request.command = Program::Argv(vec!["no-such-program".into()]);
    let refused = error(ask(&handle, Request::Exec(request.clone()), b"").await);
    assert_eq!(refused.kind, ErrorKind::NoProgram);
    assert!(
        refused.message.contains("no-such-program"),
        "{}",
        refused.message
    );

    request.command = Program::Argv(vec!["/etc/passwd".into(), "x".into()]);
    let refused = error(ask(&handle, Request::Exec(request), b"").await);
    assert_eq!(refused.kind, ErrorKind::NotExecutable);

    let mut request = shell("true");
    request.env.insert("A=B".into(), "c".into());
    assert_eq!(
        error(ask(&handle, Request::Exec(request), b"").await).kind,
        ErrorKind::InvalidRequest
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_ends_every_process_in_time() {
    let world = world();
    let handle = world.control().await;
    let mark = world.workspace.join("alive");
    let mut request = shell("(sleep 300; touch alive) && echo x; sleep 300");
    request.timeout_ms = Some(300);
    let started = Instant::now();
    let (_, report) = run(&handle, request).await;
    assert_eq!(report.outcome, Outcome::TimedOut);
    assert!(started.elapsed() < SOON);
    assert!(!mark.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_times_out_can_clean_up() {
    let world = world();
    let handle = world.control().await;
    let lock = world.workspace.join("lock");
    let line =
        "touch lock; trap 'echo cleaning; rm lock; exit 0' TERM; while :; do sleep 0.02; done";
    let mut request = shell(line);
    request.timeout_ms = Some(300);
    let started = Instant::now();
    let (answer, report) = run(&handle, request.clone()).await;
    assert_eq!((report.outcome, report.killed), (Outcome::TimedOut, false));
    assert_eq!(answer.stdout, b"cleaning\n");
    assert!(!lock.exists());
    assert!(started.elapsed() < SOON);

    // A command that ignores the signal, or is stopped, is killed.
    for line in [
        "trap '' TERM; echo deaf; while :; do sleep 0.05; done",
        "kill -STOP $$",
    ] {
        request.command = Program::Shell(line.into());
        let (_, report) = run(&handle, request.clone()).await;
        assert_eq!(report.outcome, Outcome::TimedOut);
        assert_eq!(report.killed, line.contains("deaf"));
        assert!(started.elapsed() < SOON);
    }

    // The same for a job that is killed, and for one whose machine goes.
    let mut request = shell(line);
    request.detach = Some(Detach::Now);
    for end in [true, false] {
        let (_, started) = job(&handle, Request::Exec(request.clone()), b"").await;
        let id = started.job.id;
        while !lock.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        match end {
            true => drop(job(&handle, of_job(&id, JobAction::Kill), b"").await),
            false => drop(ask(&handle, Request::End, b"").await),
        }
        let (_, ended) = job(&handle, of_job(&id, WAIT), b"").await;
        assert_eq!(ended.job.outcome, Some(Outcome::Cancelled));
        assert!(!ended.job.killed && !lock.exists());
        let (data, _) = job(&handle, of_job(&id, output(None)), b"").await;
        // The shell may say that its own child was told, too.
        let said = String::from_utf8(data).unwrap();
        assert!(said.contains("cleaning\n"), "{said}");
    }
    let (_, report) = run(&handle, shell("sleep 60")).await;
    assert_eq!(
        report.outcome,
        Outcome::Cancelled,
        "a machine that shuts down cancels its commands"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_the_null_device_unless_it_is_sent() {
    let world = world();
    let handle = world.control().await;
    let mut request = shell("readlink /proc/self/fd/0; cat; read x; wc -c");
    request.stdin = Stdin::Null;
    let (answer, _) = run(&handle, request.clone()).await;
    assert_eq!(answer.stdout, b"/dev/null\n0\n");
    request.detach = Some(Detach::Now);
    let (_, started) = job(&handle, Request::Exec(request.clone()), b"").await;
    assert!(!started.job.takes_input);
    let id = started.job.id;
    let input = JobAction::Input { end: false };
    let (_, ended) = job(&handle, of_job(&id, WAIT), b"").await;
    assert_eq!(ended.job.outcome, Some(Outcome::Exited { code: 0 }));

    // What is sent to a job arrives whole, and ends.
    request.stdin = Stdin::Input;
    request.command = Program::Shell("wc -c".into());
    let sent = vec![b'x'; 9_000_000];
    let (_, started) = job(&handle, Request::Exec(request.clone()), &sent).await;
    let (_, ended) = job(&handle, of_job(&started.job.id, WAIT), b"").await;
    assert_eq!(ended.job.outcome, Some(Outcome::Exited { code: 0 }));
    let (data, _) = job(&handle, of_job(&started.job.id, output(None)), b"").await;
    assert_eq!(data, b"9000000\n");

    request.stdin = Stdin::Null;
    request.command = Program::Shell("sleep 60".into());
    let (_, started) = job(&handle, Request::Exec(request), b"").await;
    let refused = error(ask(&handle, of_job(&started.job.id, input), b"x").await);
    assert!(refused.message.contains("`keep_stdin`"), "{refused}");
    job(&handle, of_job(&started.job.id, JobAction::Kill), b"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gets_its_streams_and_lines_as_programs_expect_them() {
    let world = world();
    let handle = world.control().await;
    let line = "for s in stdin stdout stderr; do stat -L -c '%F %a' /dev/$s; done\r\n\
                cat /dev/stdin >/dev/stdout\r\necho e >/dev/stderr\r\n\
                cat <<X | od -c | head -1\r\na\r\nX\r\n";
    let answer = ask(&handle, Request::Exec(shell(line)), b"in\n").await;
    let (out, err) = (answer.stdout, answer.stderr);
    let pipe = "fifo 666\n";
    assert_eq!(
        String::from_utf8(out).unwrap(),
        format!("{pipe}{pipe}{pipe}in\n0000000   a  \\r  \\n\n")
    );
    assert_eq!(err, b"e\n");

    for (signal, name) in [(31, "SYS"), (24, "XCPU"), (16, "STKFLT"), (36, "RTMIN+2")] {
        let (_, report) = run(&handle, shell(&format!("kill -{signal} $$"))).await;
        let signal = name.to_owned();
        assert_eq!(report.outcome, Outcome::Signaled { signal });
    }
    let mut request = shell("echo ${PYTHONUNBUFFERED-unset}");
    assert_eq!(run(&handle, request.clone()).await.0.stdout, b"1\n");
    request.env.insert("PYTHONUNBUFFERED".into(), String::new());
    assert_eq!(run(&handle, request.clone()).await.0.stdout, b"\n");
    request.env.clear();
    request.pty = Some(PtySize {
        term: "dumb".into(),
        cols: 80,
        rows: 24,
    });
    assert_eq!(run(&handle, request).await.0.stdout, b"unset\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_the_channel_kills_the_command() {
    let world = world();
    let handle = world.control().await;
    let mut channel = send(
        &handle,
        &Request::Exec(shell("echo $$; exec sleep 300")),
        b"",
    )
    .await;
    let pid = loop {
        if let Some(ChannelMsg::Data { data }) = channel.wait().await {
            break String::from_utf8(data.to_vec()).unwrap().trim().to_owned();
        }
    };
    channel.close().await.unwrap();
    let gone = async {
        while PathBuf::from(format!("/proc/{pid}")).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .expect("the command is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_megabytes_arrive_whole() {
    let world = world();
    let handle = world.control().await;
    let (answer, report) = run(
        &handle,
        shell("head -c 5000000 /dev/zero | tr '\\0' x; seq 100000 >&2"),
    )
    .await;
    assert_eq!(
        (answer.stdout.len(), report.stdout_bytes),
        (5_000_000, 5_000_000)
    );
    assert!(answer.stdout.iter().all(|byte| *byte == b'x'));
    let lines = String::from_utf8(answer.stderr).unwrap();
    assert_eq!(lines.lines().count(), 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_any_length_runs() {
    let world = world();
    let handle = world.control().await;
    let line = format!("x='{}'; echo ${{#x}}", "a".repeat(300_000));
    let (answer, _) = run(&handle, shell(&line)).await;
    assert_eq!(answer.stdout, b"300000\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_at_once_all_answer() {
    let world = world();
    let handle = Arc::new(world.control().await);
    let runs = (0..32u8).map(|code| {
        let handle = handle.clone();
        tokio::spawn(async move {
            (
                code,
                run(&handle, shell(&format!("sleep 0.1; exit {code}")))
                    .await
                    .1
                    .outcome,
            )
        })
    });
    for run in runs.collect::<Vec<_>>() {
        let (code, outcome) = run.await.unwrap();
        assert_eq!(outcome, Outcome::Exited { code });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn background_processes_do_not_delay_the_end_of_a_command() {
    let world = world();
    let handle = world.control().await;
    let started = Instant::now();
    let (answer, report) = run(&handle, shell("(sleep 300; echo late) & echo early")).await;
    assert_eq!(
        (answer.stdout, report.outcome),
        (b"early\n".to_vec(), Outcome::Exited { code: 0 })
    );
    assert!(started.elapsed() < SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_the_size_asked_for() {
    let world = world();
    let handle = world.control().await;
    let mut request = shell("tty >/dev/null && stty size && echo $TERM");
    request.pty = Some(PtySize {
        term: "xterm-test".into(),
        cols: 77,
        rows: 33,
    });
    let (answer, _) = run(&handle, request).await;
    assert_eq!(
        String::from_utf8(answer.stdout).unwrap(),
        "33 77\r\nxterm-test\r\n"
    );
}

fn read(path: &str, offset: u64, limit: u64) -> Request {
    let want = ReadWant::Lines {
        offset,
        limit,
        max_bytes: 10_000,
        max_image_bytes: 1000,
    };
    Request::Read(ReadRequest {
        path: path.into(),
        user: User::Sandbox,
        want,
    })
}

fn write(path: &str, bytes: u64, append: bool) -> Request {
    Request::Write(WriteRequest {
        path: path.into(),
        user: User::Sandbox,
        mode: None,
        append,
        bytes,
    })
}

fn content(answer: &Answer) -> ReadContent {
    match &answer.report {
        Some(Report::Read(read)) => read.content.clone(),
        other => panic!("expected what was read, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_whole_and_read_by_lines() {
    let world = world();
    let handle = world.control().await;
    let answer = ask(&handle, write("a/b/c.txt", 14, false), b"one\ntwo\nthree\n").await;
    assert!(
        matches!(answer.report, Some(Report::Write { bytes: 14, .. })),
        "{answer:?}"
    );
    let answer = ask(&handle, read("a/b/c.txt", 2, 1), b"").await;
    assert_eq!(answer.stdout, b"two\n");
    assert_eq!(
        content(&answer),
        ReadContent::Text {
            total_lines: Some(3),
            next_offset: Some(3),
            cut: false
        }
    );
    ask(&handle, write("a/b/c.txt", 4, true), b"four").await;
    let answer = ask(&handle, read("a/b/c.txt", 1, 100), b"").await;
    assert_eq!(answer.stdout, b"one\ntwo\nthree\nfour");
    assert_eq!(
        content(&answer),
        ReadContent::Text {
            total_lines: Some(4),
            next_offset: None,
            cut: false
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_ends_early_leaves_the_old_file() {
    let world = world();
    let handle = world.control().await;
    let done = ask(&handle, write("f", 3, false), b"old").await;
    assert!(
        matches!(done.report, Some(Report::Write { .. })),
        "{done:?}"
    );
    let refused = error(ask(&handle, write("f", 100, false), b"new").await);
    assert!(
        refused.message.contains("after 3 of 100"),
        "{}",
        refused.message
    );
    assert_eq!(std::fs::read(world.workspace.join("f")).unwrap(), b"old");
    assert_eq!(
        std::fs::read_dir(&world.workspace).unwrap().count(),
        1,
        "the temporary file is gone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_reports_the_kind_of_content() {
    let world = world();
    let handle = world.control().await;
    std::fs::write(world.workspace.join("p.png"), b"\x89PNG\r\n\x1a\nrest").unwrap();
    std::fs::write(world.workspace.join("text"), b"GIF89a is how").unwrap();
    std::fs::write(world.workspace.join("bin"), b"a\0b").unwrap();
    std::fs::write(world.workspace.join("config.toml"), b"x").unwrap();
    let answer = ask(&handle, read("p.png", 1, 10), b"").await;
    assert_eq!(
        content(&answer),
        ReadContent::Image {
            media_type: "image/png".into()
        }
    );
    assert_eq!(answer.stdout.len(), 12);
    assert!(matches!(
        content(&ask(&handle, read("bin", 1, 10), b"").await),
        ReadContent::Binary { .. }
    ));
    assert!(matches!(
        content(&ask(&handle, read("text", 1, 10), b"").await),
        ReadContent::Text { .. }
    ));
    let answer = ask(&handle, read(".", 1, 10), b"").await;
    assert_eq!(content(&answer), ReadContent::Directory { entries: 4 });
    let answer = ask(&handle, read(".", 2, 2), b"").await;
    assert_eq!(
        answer.stdout.iter().filter(|byte| **byte == b'\n').count(),
        2
    );
    let missing = error(ask(&handle, read("config.yml", 1, 10), b"").await);
    assert_eq!(missing.kind, ErrorKind::NotFound);
    assert!(
        missing.message.contains("config.toml"),
        "{}",
        missing.message
    );
    let refused = error(ask(&handle, write("new/", 0, false), b"").await);
    assert_eq!(refused.kind, ErrorKind::InvalidRequest);
}

fn notes(answer: &Answer) -> String {
    match &answer.report {
        Some(Report::Read(read)) => read.notes.join("\n"),
        Some(Report::Write { notes, .. }) => notes.join("\n"),
        Some(Report::Edit(edit)) => edit.notes.join("\n"),
        Some(Report::Search(search)) => search.notes.join("\n"),
        other => panic!("expected a report with notes, got {other:?}"),
    }
}

/// Neither a file's growth, nor its length, nor its kind holds a page up.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_comes_at_once_whatever_the_file_is() {
    let world = world();
    let handle = world.control().await;
    let path = |name: &str| world.workspace.join(name);
    // It grows faster than it can be read, until the test is over.
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (grows, of_thread) = (path("grows"), stop.clone());
    let writer = std::thread::spawn(move || {
        std::fs::write(&grows, "y\n".repeat(32 << 10)).unwrap();
        let file = std::fs::File::options().write(true).open(&grows).unwrap();
        let mut len = 1 << 20;
        while !of_thread.load(std::sync::atomic::Ordering::Relaxed) && len < 8 << 40 {
            file.set_len(len).unwrap();
            len += 1 << 20;
        }
    });
    while std::fs::metadata(path("grows")).map_or(0, |meta| meta.len()) == 0 {
        tokio::task::yield_now().await;
    }
    let started = Instant::now();
    let answer = ask(&handle, read("grows", 1, 3), b"").await;
    assert!(started.elapsed() < SOON);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(answer.stdout, b"y\ny\ny\n");
    // 8 TB, nearly all of it a hole in the second line.
    let sparse = std::fs::File::create(path("sparse")).unwrap();
    let head = format!("one\n{}", "x".repeat(70_000));
    std::io::Write::write_all(&mut &sparse, head.as_bytes()).unwrap();
    sparse.set_len(8 << 40).unwrap();
    let started = Instant::now();
    let answer = ask(&handle, read("sparse", 1, 10), b"").await;
    assert_eq!(answer.stdout, b"one\n");
    assert!(
        matches!(
            content(&answer),
            ReadContent::Text {
                total_lines: None,
                next_offset: Some(2),
                ..
            }
        ),
        "{answer:?}"
    );
    let answer = ask(&handle, read("sparse", 2, 10), b"").await;
    assert_eq!(answer.stdout.len(), 10_001);
    assert!(
        matches!(content(&answer), ReadContent::Text { cut: true, .. }),
        "{:?}",
        answer.report
    );
    assert!(started.elapsed() < SOON);
    // The kernel's own files have no size.
    let answer = ask(&handle, read("/proc/cpuinfo", 1, 2), b"").await;
    assert_eq!(
        answer.stdout.iter().filter(|byte| **byte == b'\n').count(),
        2
    );
    rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), rustix::fs::Mode::RUSR).unwrap();
    for special in ["fifo", "/dev/zero"] {
        let answer = ask(&handle, read(special, 1, 10), b"").await;
        assert!(
            matches!(content(&answer), ReadContent::Binary { .. }),
            "{special}"
        );
        let refused = error(ask(&handle, write(special, 1, false), b"x").await);
        assert_eq!(refused.kind, ErrorKind::WrongKind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_in_any_encoding_is_shown_and_named() {
    let world = world();
    let handle = world.control().await;
    let put = |name: &str, bytes: &[u8]| std::fs::write(world.workspace.join(name), bytes).unwrap();
    let utf16: Vec<u8> = "\u{feff}eins\r\nzwei ä\n漢字\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    put("latin.c", b"/* Ga\xebtan */\nint c\xf4t\xe9;\nlast\n");
    put("utf16.txt", &utf16);
    put("bom.txt", b"\xef\xbb\xbfone\ntw\xc3\xb6\n");
    // What decides comes after all that is looked at first.
    let mut late = b"int x;\n".repeat(20_000);
    late.extend(b"caf\xe9\n");
    put("late.c", &late);
    put("photo.jpg", b"\xff\xd8\xff\xe0");
    for (name, offset, shown, named) in [
        ("latin.c", 2, "int côté;\n", "windows-1252"),
        (
            "utf16.txt",
            1,
            "eins\r\n",
            "UTF-16LE with a byte order mark",
        ),
        ("utf16.txt", 2, "zwei ä\n", "UTF-16LE"),
        ("utf16.txt", 3, "漢字\n", "UTF-16LE"),
        ("bom.txt", 1, "one\n", "UTF-8 with a byte order mark"),
        ("bom.txt", 2, "twö\n", "UTF-8"),
        ("late.c", 20_001, "café\n", "windows-1252"),
    ] {
        let answer = ask(&handle, read(name, offset, 1), b"").await;
        assert_eq!(String::from_utf8_lossy(&answer.stdout), shown, "{name}");
        assert!(notes(&answer).contains(named), "{name}: {answer:?}");
    }
    let answer = ask(&handle, read("late.c", 1, 1), b"").await;
    assert_eq!(
        (answer.stdout.as_slice(), notes(&answer).as_str()),
        (b"int x;\n".as_slice(), "")
    );
    assert!(matches!(
        content(&ask(&handle, read("photo.jpg", 1, 1), b"").await),
        ReadContent::Image { .. }
    ));
    // A long line is cut between characters, and no more is sent than was asked for.
    put(
        "long.txt",
        &encoding_of_one_byte(
            "съешь же еще этих мягких французских булок да выпей чаю ".repeat(2000),
        ),
    );
    let answer = ask(&handle, read("long.txt", 1, 1), b"").await;
    let text = String::from_utf8(answer.stdout.clone()).unwrap();
    assert!(
        text.len() <= 10_001 && text.starts_with("съешь же еще"),
        "{}",
        text.len()
    );
}

/// Windows-1251, for these few letters.
fn encoding_of_one_byte(text: String) -> Vec<u8> {
    let byte = |char| match char {
        'а'..='я' => 0xe0 + (char as u32 - 'а' as u32) as u8,
        other => other as u8,
    };
    text.chars().map(byte).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_through_a_long_file() {
    let world = world();
    let handle = world.control().await;
    let text: String = (1..=60_000)
        .map(|n| format!("line {n} {}\n", "é".repeat(n % 40)))
        .collect();
    std::fs::write(world.workspace.join("long"), &text).unwrap();
    let (mut offset, mut all) = (Some(1), Vec::<u8>::new());
    while let Some(first) = offset {
        let answer = ask(&handle, read("long", first, 2000), b"").await;
        all.extend(&answer.stdout);
        let ReadContent::Text {
            total_lines,
            next_offset,
            cut,
        } = content(&answer)
        else {
            panic!("{answer:?}")
        };
        assert!(!cut && total_lines.is_none_or(|total| total == 60_000));
        offset = next_offset;
    }
    assert!(all == text.as_bytes(), "{} bytes", all.len());
    std::fs::write(world.workspace.join("long"), "changed\n").unwrap();
    let answer = ask(&handle, read("long", 1, 10), b"").await;
    assert_eq!(answer.stdout, b"changed\n");
    let answer = ask(&handle, read("long", 50_000, 10), b"").await;
    assert_eq!(
        content(&answer),
        ReadContent::Text {
            total_lines: Some(1),
            next_offset: None,
            cut: false
        }
    );
}

/// On a host, home is the workspace.
#[tokio::test(flavor = "multi_thread")]
async fn paths_and_names_mean_the_same_to_every_tool() {
    let world = world();
    let handle = world.control().await;
    ask(&handle, write("~/dir/a b.txt", 4, false), b"one\n").await;
    assert!(
        world.workspace.join("dir/a b.txt").exists(),
        "no directory is called ~"
    );
    let uri = format!("file://{}/dir/a%20b.txt", world.workspace.display());
    assert_eq!(ask(&handle, read(&uri, 1, 10), b"").await.stdout, b"one\n");
    let (lines, _) = found(
        &handle,
        SearchRequest {
            path: "~/dir".into(),
            ..searching("one")
        },
    )
    .await;
    assert_eq!(lines.len(), 1);
    for cwd in [
        "~/dir",
        "dir",
        &format!("file:{}/dir", world.workspace.display()),
    ] {
        let request = ExecRequest {
            cwd: Some(cwd.into()),
            ..shell("ls")
        };
        assert_eq!(run(&handle, request).await.0.stdout, b"a b.txt\n", "{cwd}");
    }
    let refused = error(ask(&handle, read("~no-such-user/x", 1, 10), b"").await);
    assert!(
        refused.message.contains("no user \"no-such-user\""),
        "{refused}"
    );
    let request = ExecRequest {
        cwd: Some("~no-such-user".into()),
        ..shell("ls")
    };
    let refused = error(ask(&handle, Request::Exec(request), b"").await);
    assert!(refused.message.contains("no user"), "{refused}");
    // A macOS screenshot, and a name with a decomposed character.
    let shot = world.workspace.join("Shot 10.30\u{202f}AM.txt");
    let cafe = world.workspace.join("Cafe\u{301}");
    std::fs::write(&shot, "old\n").unwrap();
    std::fs::create_dir(&cafe).unwrap();
    let answer = ask(&handle, edit("Shot 10.30 AM.txt", "old", "new"), b"").await;
    assert!(notes(&answer).contains("\\u{202f}AM.txt"), "{answer:?}");
    let answer = ask(&handle, write("Shot 10.30 AM.txt", 4, true), b"end\n").await;
    assert!(notes(&answer).contains("\\u{202f}AM.txt"), "{answer:?}");
    let answer = ask(&handle, read("Shot 10.30 AM.txt", 1, 10), b"").await;
    assert_eq!(answer.stdout, b"new\nend\n");
    assert!(notes(&answer).contains("looks the same"), "{answer:?}");
    ask(&handle, write("Caf\u{e9}/new.txt", 3, false), b"one").await;
    assert!(cafe.join("new.txt").exists());
    let request = ExecRequest {
        cwd: Some("Caf\u{e9}".into()),
        ..shell("ls")
    };
    assert_eq!(run(&handle, request).await.0.stdout, b"new.txt\n");
    let (lines, _) = found(
        &handle,
        SearchRequest {
            path: "Caf\u{e9}".into(),
            ..searching("one")
        },
    )
    .await;
    assert_eq!(lines.len(), 1);
    // Bytes that are no UTF-8, by the name that a listing shows.
    let latin = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9.txt".as_slice());
    let latin: &std::ffi::OsStr = latin;
    std::fs::write(world.workspace.join(latin), "old").unwrap();
    ask(&handle, edit("caf\u{fffd}.txt", "old", "new"), b"").await;
    assert_eq!(std::fs::read(world.workspace.join(latin)).unwrap(), b"new");
}

/// Nothing of several additions is lost, whatever else is written meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn appended_content_goes_to_the_file_itself() {
    let world = world();
    let handle = world.control().await;
    let log = world.workspace.join("log");
    std::fs::write(&log, "0\n").unwrap();
    let open = std::fs::File::open(&log).unwrap();
    let mut calls = Vec::new();
    for _ in 0..20 {
        calls.push(send(&handle, &write("log", 5, true), b"line\n").await);
    }
    let mut all = Vec::new();
    for call in calls {
        all.push(collect(call).await);
    }
    assert!(
        all.iter()
            .all(|answer| matches!(answer.report, Some(Report::Write { bytes: 5, .. })))
    );
    let text = std::io::read_to_string(&open).unwrap();
    assert_eq!(
        text.lines().count(),
        21,
        "a process that has the file open must see the addition"
    );
    let refused = error(ask(&handle, write("log", 100, true), b"cut").await);
    assert!(refused.message.contains("after 3 of 100"), "{refused}");
    assert_eq!(std::fs::read_to_string(&log).unwrap().len(), text.len());
    std::fs::hard_link(&log, world.workspace.join("link")).unwrap();
    all.push(ask(&handle, edit("log", "0\n", "first\n"), b"").await);
    assert!(
        notes(all.last().unwrap()).contains("2 hard links"),
        "{all:?}"
    );
    let other = std::fs::read_to_string(world.workspace.join("link")).unwrap();
    assert!(other.starts_with("first\n"), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_allows_only_its_own_requests() {
    let world = world();
    assert!(
        world.connect("root", &key()).await.is_none(),
        "a stranger's key"
    );
    assert!(
        world.connect("nobody", &world.login).await.is_none(),
        "a name that is no account"
    );
    let login = world.connect("sandbox", &world.login).await.unwrap();
    let mut channel = login.channel_open_session().await.unwrap();
    channel
        .request_subsystem(true, wire::SUBSYSTEM)
        .await
        .unwrap();
    assert!(
        matches!(channel.wait().await, Some(ChannelMsg::Failure)),
        "a login key must not send control requests"
    );
    let mut channel = login.channel_open_session().await.unwrap();
    channel.exec(true, "exit 7").await.unwrap();
    let mut status = None;
    while let Some(message) = channel.wait().await {
        if let ChannelMsg::ExitStatus { exit_status } = message {
            status = Some(exit_status);
        }
    }
    assert_eq!(status, Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_give_a_part_of_the_clients_computer_is_refused_aloud() {
    let world = world();
    let login = world.connect("sandbox", &world.login).await.unwrap();
    assert!(login.tcpip_forward("127.0.0.1", 8080).await.is_err());
    let mut channel = login.channel_open_session().await.unwrap();
    channel.agent_forward(false).await.unwrap();
    channel
        .request_x11(true, false, "MIT-MAGIC-COOKIE-1", "00", 0)
        .await
        .unwrap();
    channel.exec(false, "echo runs").await.unwrap();
    let (mut out, mut err, mut failures) = (Vec::new(), Vec::new(), 0);
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => out.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, .. } => err.extend_from_slice(&data),
            ChannelMsg::Failure => failures += 1,
            _ => {}
        }
    }
    let err = String::from_utf8(err).unwrap();
    assert_eq!((out.as_slice(), failures), (&b"runs\n"[..], 1), "{err}");
    let refused = [
        wire::Refused::Agent,
        wire::Refused::X11,
        wire::Refused::Remote,
    ];
    let lines: String = refused
        .iter()
        .map(|it| format!("snowglobe: {it}\r\n"))
        .collect();
    assert_eq!(err, lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_be_opened_inside_another_session() {
    let world = world();
    let outer = world.control().await;
    let channel = outer
        .channel_open_direct_streamlocal(wire::ATTACH_SOCKET)
        .await
        .unwrap();
    let mut inner = client::connect_stream(Arc::default(), channel.into_stream(), AnyServer)
        .await
        .unwrap();
    let key = PrivateKeyWithHashAlg::new(world.control.clone(), None);
    assert!(
        inner
            .authenticate_publickey("root", key)
            .await
            .unwrap()
            .success()
    );
    let (answer, _) = run(&inner, shell("echo inside")).await;
    assert_eq!(answer.stdout, b"inside\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_reads_no_input_does_not_block_others() {
    let world = world();
    let handle = world.control().await;
    let command = send(&handle, &Request::Exec(shell("sleep 300")), b"").await;
    let input = vec![7; 40 << 20];
    let deaf = handle.channel_open_session().await.unwrap();
    deaf.request_subsystem(false, wire::SUBSYSTEM)
        .await
        .unwrap();
    let body = serde_json::to_vec(&Request::Exec(shell("sleep 300"))).unwrap();
    let head = (body.len() as u32).to_be_bytes().to_vec();
    deaf.data_bytes([head, body].concat()).await.unwrap();
    deaf.data_bytes(input.clone()).await.unwrap();
    let (answer, _) = run(&handle, shell("echo still here")).await;
    assert_eq!(answer.stdout, b"still here\n");

    // The same for a forwarded port whose server reads nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let forwarded = handle
        .channel_open_direct_tcpip("localhost", port.into(), "127.0.0.1", 1)
        .await
        .unwrap();
    let _never_read = listener.accept().await.unwrap();
    forwarded.data_bytes(input).await.unwrap();
    let (answer, _) = run(&handle, shell("echo still here")).await;
    assert_eq!(answer.stdout, b"still here\n");
    drop((command, deaf, forwarded));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_large_read_blocks_nothing() {
    let world = world();
    let handle = world.control().await;
    let file = std::fs::File::create(world.workspace.join("large")).unwrap();
    file.set_len(256 << 20).unwrap();
    let read = |want| {
        Request::Read(ReadRequest {
            path: "large".into(),
            user: User::Sandbox,
            want,
        })
    };
    for _ in 0..3 {
        let whole = read(ReadWant::Bytes {
            offset: 0,
            limit: u64::MAX,
        });
        let mut channel = send(&handle, &whole, b"").await;
        while !matches!(channel.wait().await, Some(ChannelMsg::Data { .. })) {}
        channel.close().await.unwrap();
    }
    let part = read(ReadWant::Bytes {
        offset: 0,
        limit: 10,
    });
    assert_eq!(ask(&handle, part, b"").await.stdout, [0; 10]);
}

/// Sends a request that must be answered with a job.
async fn job(
    handle: &client::Handle<AnyServer>,
    request: Request,
    input: &[u8],
) -> (Vec<u8>, JobReport) {
    let answer = ask(handle, request, input).await;
    match answer.report {
        Some(Report::Job(report)) => (answer.stdout, report),
        other => panic!("expected a job, got {other:?}"),
    }
}

fn of_job(id: &str, action: JobAction) -> Request {
    Request::Job(JobRequest {
        id: id.into(),
        action,
    })
}

const WAIT: JobAction = JobAction::Wait { timeout_ms: 10_000 };

fn output(offset: Option<u64>) -> JobAction {
    JobAction::Output {
        offset,
        limit: 1 << 20,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_its_connection_and_takes_input() {
    let world = world();
    let handle = world.control().await;
    let mut request = shell("echo out; echo err >&2; read line; echo got $line; cat; exit 7");
    request.detach = Some(Detach::Now);
    request.stdin = Stdin::Open;
    let (_, started) = job(&handle, Request::Exec(request), b"").await;
    assert_eq!(started.job.outcome, None);
    assert!(started.job.takes_input);
    let id = started.job.id;
    handle
        .disconnect(russh::Disconnect::ByApplication, "", "")
        .await
        .unwrap();
    drop(handle);

    let handle = world.control().await;
    let Some(Report::Jobs { jobs }) = ask(&handle, Request::Jobs, b"").await.report else {
        panic!("jobs are listed");
    };
    assert_eq!(jobs.iter().map(|job| &job.id).collect::<Vec<_>>(), [&id]);
    let line = JobAction::Input { end: false };
    job(&handle, of_job(&id, line), b"a line\n").await;
    let last = JobAction::Input { end: true };
    job(&handle, of_job(&id, last.clone()), b"the rest").await;
    let (_, ended) = job(&handle, of_job(&id, WAIT), b"").await;
    assert_eq!(ended.job.outcome, Some(Outcome::Exited { code: 7 }));
    let (data, report) = job(&handle, of_job(&id, output(Some(0))), b"").await;
    let text = String::from_utf8(data).unwrap();
    assert_eq!(text.len() as u64, report.next_offset);
    assert_eq!(report.job.output_bytes, report.next_offset);
    let mut lines: Vec<&str> = text.lines().collect();
    // The two streams are two pipes: what is written at once may come in either order.
    lines[..2].sort_unstable();
    assert_eq!(lines, ["err", "out", "got a line", "the rest"]);
    let (data, report) = job(
        &handle,
        of_job(
            &id,
            JobAction::Output {
                offset: None,
                limit: 4,
            },
        ),
        b"",
    )
    .await;
    assert_eq!(data, b"rest");
    assert_eq!(report.offset + 4, report.next_offset);
    let refused = error(ask(&handle, of_job(&id, last), b"x").await);
    assert!(refused.message.contains("has ended"), "{refused}");
    let unknown = error(ask(&handle, of_job("job-0", WAIT), b"").await);
    assert_eq!(unknown.kind, ErrorKind::NotFound);
    assert!(unknown.message.contains(&id), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_killed_or_times_out() {
    let world = world();
    let handle = world.control().await;
    let mut request = shell("echo $$; exec sleep 300");
    request.detach = Some(Detach::Now);
    let (_, started) = job(&handle, Request::Exec(request.clone()), b"").await;
    let (_, killed) = job(&handle, of_job(&started.job.id, JobAction::Kill), b"").await;
    assert_eq!(killed.job.outcome, Some(Outcome::Cancelled));
    let (data, _) = job(&handle, of_job(&started.job.id, output(None)), b"").await;
    let pid = String::from_utf8(data).unwrap();
    assert!(!PathBuf::from(format!("/proc/{}", pid.trim())).exists());

    request.timeout_ms = Some(400);
    let (_, started) = job(&handle, Request::Exec(request), b"").await;
    let (_, ended) = job(&handle, of_job(&started.job.id, WAIT), b"").await;
    assert_eq!(ended.job.outcome, Some(Outcome::TimedOut));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_long_becomes_a_job_with_all_its_output() {
    let world = world();
    let handle = world.control().await;
    let mut request = shell("echo early; until [ -e go ]; do sleep 0.01; done; echo late");
    request.detach = Some(Detach::After(300));
    let (seen, report) = job(&handle, Request::Exec(request.clone()), b"").await;
    assert_eq!(seen, b"early\n");
    assert!(
        !report.job.takes_input,
        "the whole input was given at the start"
    );
    std::fs::write(world.workspace.join("go"), "").unwrap();
    let (_, ended) = job(&handle, of_job(&report.job.id, WAIT), b"").await;
    assert_eq!(ended.job.outcome, Some(Outcome::Exited { code: 0 }));
    let (data, _) = job(&handle, of_job(&report.job.id, output(Some(0))), b"").await;
    assert_eq!(data, b"early\nlate\n");

    // One that is done in time is no job, and leaves none.
    let (answer, report) = run(&handle, request).await;
    assert_eq!(
        (answer.stdout.as_slice(), report.outcome),
        (b"early\nlate\n".as_slice(), Outcome::Exited { code: 0 })
    );
    let Some(Report::Jobs { jobs }) = ask(&handle, Request::Jobs, b"").await.report else {
        panic!("jobs are listed");
    };
    assert_eq!(jobs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_never_started_is_an_error_and_no_job() {
    let world = world();
    let handle = world.control().await;
    let mut request = shell("true");
    request.detach = Some(Detach::Now);
    request.cwd = Some("/no/such/dir".into());
    let refused = error(ask(&handle, Request::Exec(request), b"").await);
    assert_eq!(refused.kind, ErrorKind::NotFound);
    let Some(Report::Jobs { jobs }) = ask(&handle, Request::Jobs, b"").await.report else {
        panic!("jobs are listed");
    };
    assert_eq!(jobs, []);
}

fn edit(path: &str, old: &str, new: &str) -> Request {
    Request::Edit(EditRequest {
        path: path.into(),
        user: User::Sandbox,
        old: old.into(),
        new: new.into(),
        all: false,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_one_file_all_count_and_keep_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let world = world();
    let handle = Arc::new(world.control().await);
    let path = world.workspace.join("script");
    let lines: String = (0..16).map(|n| format!("line {n};\n")).collect();
    std::fs::write(&path, lines).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o751)).unwrap();
    let edits = (0..16).map(|n| {
        let handle = handle.clone();
        tokio::spawn(async move {
            let request = edit("script", &format!("line {n};"), &format!("edited {n};"));
            ask(&handle, request, b"").await.report
        })
    });
    for done in edits.collect::<Vec<_>>() {
        let Some(Report::Edit(report)) = done.await.unwrap() else {
            panic!("each edit is done");
        };
        assert_eq!(report.replacements, 1);
        assert!(report.diff.contains("\n+edited "), "{}", report.diff);
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let expected: String = (0..16).map(|n| format!("edited {n};\n")).collect();
    assert_eq!(text, expected);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o751);

    let refused = error(ask(&handle, edit("script", "edited", "x"), b"").await);
    assert!(refused.message.contains("16 times"), "{refused}");
    let refused = error(ask(&handle, edit("scrpt", "a", "b"), b"").await);
    assert_eq!(refused.kind, ErrorKind::NotFound);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
}

fn searching(pattern: &str) -> SearchRequest {
    SearchRequest {
        pattern: pattern.into(),
        literal: false,
        ignore_case: false,
        path: String::new(),
        user: User::Sandbox,
        globs: Vec::new(),
        context: 0,
        limit: 100,
        max_bytes: 100_000,
    }
}

async fn found(
    handle: &client::Handle<AnyServer>,
    request: SearchRequest,
) -> (Vec<FoundLine>, SearchReport) {
    let answer = ask(handle, Request::Search(request), b"").await;
    let Some(Report::Search(report)) = answer.report else {
        panic!("expected a search's report, got {answer:?}");
    };
    let text = String::from_utf8(answer.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (lines.collect(), report)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_what_ripgrep_finds() {
    let world = world();
    let handle = world.control().await;
    for (path, content) in [
        ("b.rs", "fn one() {}\nfn two() {}\n// end"),
        ("a/c.rs", "let x;\r\nfn Three() {}\n"),
        ("a/d.txt", "fn four\n"),
        (".hidden/e.rs", "fn five\n"),
        ("target/f.rs", "fn six\n"),
        (".git/HEAD", "fn seven\n"),
        (".gitignore", "target/\n"),
        ("g.bin", "fn eight\0\n"),
    ] {
        let path = world.workspace.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let at = |lines: &[FoundLine]| -> Vec<(String, u64, bool)> {
        let dir = format!("{}/", world.workspace.display());
        lines
            .iter()
            .map(|line| (line.path.replace(&dir, ""), line.line, line.context))
            .collect()
    };
    let (lines, report) = found(&handle, searching("^fn [a-z]+")).await;
    let all = [("a/d.txt", 1), ("b.rs", 1), ("b.rs", 2)];
    assert_eq!(at(&lines), all.map(|(p, n)| (p.to_owned(), n, false)));
    assert_eq!(
        (report.lines, report.files, report.truncated),
        (3, 2, false)
    );

    let mut request = searching("FN T");
    (request.ignore_case, request.context) = (true, 1);
    request.globs = vec!["*.rs".into()];
    let (lines, _) = found(&handle, request).await;
    assert_eq!(
        at(&lines),
        [
            ("a/c.rs".to_owned(), 1, true),
            ("a/c.rs".to_owned(), 2, false),
            ("b.rs".to_owned(), 1, true),
            ("b.rs".to_owned(), 2, false),
            ("b.rs".to_owned(), 3, true),
        ]
    );
    assert_eq!(lines[0].text, "let x;");

    let mut request = searching("fn");
    request.limit = 2;
    let (lines, report) = found(&handle, request).await;
    assert_eq!((lines.len(), report.truncated), (2, true));

    let mut request = searching("one(");
    let refused = error(ask(&handle, Request::Search(request.clone()), b"").await);
    assert!(refused.message.contains("`literal`"), "{refused}");
    request.literal = true;
    assert_eq!(found(&handle, request).await.0.len(), 1);
    let mut request = searching("x");
    request.path = "no/such".into();
    let refused = error(ask(&handle, Request::Search(request), b"").await);
    assert_eq!(refused.kind, ErrorKind::NotFound);
}

/// What an edit says, once the file is checked.
async fn edited(handle: &client::Handle<AnyServer>, request: Request) -> (String, Vec<String>) {
    match ask(handle, request, b"").await.report {
        Some(Report::Edit(report)) => (report.diff, report.notes),
        other => panic!("expected an edit's report, got {other:?}"),
    }
}

fn utf16(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().flat_map(u16::to_le_bytes);
    [0xff, 0xfe].into_iter().chain(units).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_keep_a_files_encoding_and_line_ends() {
    let world = world();
    let handle = world.control().await;
    let path = |name: &str| world.workspace.join(name);
    std::fs::write(path("latin.c"), b"// caf\xe9\r\nint x;\n// na\xefve\r\n").unwrap();
    let (diff, notes) = edited(&handle, edit("latin.c", "café\nint x;", "thé\nint y;")).await;
    assert_eq!(
        std::fs::read(path("latin.c")).unwrap(),
        b"// th\xe9\r\nint y;\n// na\xefve\r\n"
    );
    assert!(
        diff.contains("-// café\n") && !diff.contains('\r'),
        "{diff}"
    );
    assert!(notes[0].contains("windows-1252 (Latin-1)"), "{notes:?}");
    let refused = error(ask(&handle, edit("latin.c", "int y", "→"), b"").await);
    assert_eq!(refused.kind, ErrorKind::InvalidRequest);
    assert!(refused.message.contains("'→' (U+2192)"), "{refused}");

    std::fs::write(path("wide.txt"), utf16("uno\r\naño 世界\r\n")).unwrap();
    let (_, notes) = edited(&handle, edit("wide.txt", "uno\naño", "dos\naño")).await;
    assert_eq!(
        std::fs::read(path("wide.txt")).unwrap(),
        utf16("dos\r\naño 世界\r\n")
    );
    assert!(
        notes[0].contains("UTF-16LE with a byte order mark"),
        "{notes:?}"
    );

    std::fs::write(path("stray.md"), b"\xc3\xa9t\xc3\xa9 \xff\nplain\n").unwrap();
    edited(&handle, edit("stray.md", "plain", "simple")).await;
    assert_eq!(
        std::fs::read(path("stray.md")).unwrap(),
        b"\xc3\xa9t\xc3\xa9 \xff\nsimple\n"
    );

    let refused = error(ask(&handle, edit("stray.md", "     2\tsimple\n", "x"), b"").await);
    assert!(refused.message.contains("line numbers"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_reads_any_text() {
    let world = world();
    let handle = world.control().await;
    let write = |name: &str, content: &[u8]| {
        std::fs::write(world.workspace.join(name), content).unwrap();
    };
    write("latin.c", b"// caf\xe9\r\nfoo;\r\n");
    write("wide.txt", &utf16("el café\r\nfoo; \r\n"));
    write("bom.txt", "\u{feff}café\nfoo\n".as_bytes());
    write("stray.txt", b"caf\xc3\xa9 \xff\n");
    write(
        "min.js",
        format!("{}let needle=1;{}", "a".repeat(5000), "é".repeat(3000)).as_bytes(),
    );
    write("data.bin", b"caf\xc3\xa9 needle\0\n");
    let places = |lines: &[FoundLine]| -> Vec<(String, u64)> {
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        lines
            .iter()
            .map(|line| (name(&line.path), line.line))
            .collect()
    };
    let at = |places: &[(&str, u64)]| -> Vec<(String, u64)> {
        places
            .iter()
            .map(|(name, line)| ((*name).to_owned(), *line))
            .collect()
    };

    let (lines, report) = found(&handle, searching("café")).await;
    let all = [
        ("bom.txt", 1),
        ("latin.c", 1),
        ("stray.txt", 1),
        ("wide.txt", 1),
    ];
    assert_eq!(places(&lines), at(&all));
    assert_eq!(lines[1].text, "// café");
    let notes = report.notes.join("\n");
    assert!(
        notes.contains("latin.c is in windows-1252 (Latin-1)"),
        "{notes}"
    );
    assert!(notes.contains("wide.txt is in UTF-16LE"), "{notes}");
    let mut folded = searching("^CAFÉ$");
    folded.ignore_case = true;
    assert_eq!(
        places(&found(&handle, folded).await.0),
        at(&[("bom.txt", 1)])
    );

    assert_eq!(
        places(&found(&handle, searching("foo;$")).await.0),
        at(&[("latin.c", 2)])
    );
    assert_eq!(
        places(&found(&handle, searching("\\s+$")).await.0),
        at(&[("wide.txt", 2)])
    );
    assert_eq!(places(&found(&handle, searching("\\r$")).await.0).len(), 4);
    for pattern in [
        "café\\nfoo",
        "café\nfoo",
        "(?s)café.foo",
        "café\\s*\\n\\s*foo",
        "café[\\s\\S]foo",
    ] {
        let (lines, _) = found(&handle, searching(pattern)).await;
        let all = [
            ("bom.txt", 1),
            ("bom.txt", 2),
            ("latin.c", 1),
            ("latin.c", 2),
        ];
        assert_eq!(places(&lines)[..4], at(&all), "{pattern:?}");
        assert_eq!(lines[3].text, "foo;");
    }
    let mut literal = searching("café\r\nfoo;");
    literal.literal = true;
    assert_eq!(found(&handle, literal).await.0.len(), 4);

    let (lines, _) = found(&handle, searching("needle")).await;
    assert_eq!(lines.len(), 1);
    let text = &lines[0].text;
    assert!(text.starts_with("[… 4,904 characters …]aaa"), "{text}");
    assert!(
        text.contains("let needle=1;é") && text.ends_with(" characters …]"),
        "{text}"
    );

    let mut binary = searching("needle");
    binary.path = "data.bin".into();
    let (_, report) = found(&handle, binary).await;
    assert!(
        report.notes[0].contains("data.bin is binary"),
        "{:?}",
        report.notes
    );
    let refused = error(ask(&handle, Request::Search(searching("a(?=b)")), b"").await);
    assert!(refused.message.contains("grep -P"), "{refused}");
    let (_, report) = found(&handle, searching("nothing\\|such")).await;
    assert!(
        report.notes.concat().contains("`one|other`"),
        "{:?}",
        report.notes
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn globs_name_files_in_every_usual_form() {
    let world = world();
    let handle = world.control().await;
    for path in [
        "src/a.rs",
        "src/x/b.rs",
        "tests/c.rs",
        "Cargo.toml",
        ".github/workflows/ci.yml",
        "target/d.rs",
        "debug.log",
        ".venv/lib.py",
        "with space.txt",
    ] {
        let path = world.workspace.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "word\n").unwrap();
    }
    std::fs::create_dir(world.workspace.join(".git")).unwrap();
    std::fs::write(world.workspace.join(".git/HEAD"), "word\n").unwrap();
    std::fs::write(world.workspace.join(".gitignore"), "target/\n*.log\n").unwrap();
    std::fs::write(world.workspace.join(".venv/.gitignore"), "*\n").unwrap();
    let dir = world.workspace.display().to_string();
    let absolute = format!("{dir}/src/**/*.rs");
    for (path, glob, expected) in [
        ("", absolute.as_str(), "src/a.rs src/x/b.rs"),
        ("src/x", absolute.as_str(), "src/x/b.rs"),
        ("", "./src/*.rs", "src/a.rs"),
        ("src", "src/*.rs", "src/a.rs"),
        ("src/", "*.rs", "src/a.rs src/x/b.rs"),
        (
            "",
            "*.toml, *.rs",
            "Cargo.toml src/a.rs src/x/b.rs tests/c.rs",
        ),
        ("", "*.rs,!tests/**", "src/a.rs src/x/b.rs"),
        ("", "!*.rs", "Cargo.toml with space.txt"),
        ("", "src", "src/a.rs src/x/b.rs"),
        ("", "src/", "src/a.rs src/x/b.rs"),
        ("", "with space.txt", "with space.txt"),
        ("", ".github/**", ".github/workflows/ci.yml"),
        ("", ".github/workflows/*.yml", ".github/workflows/ci.yml"),
        ("", "target/**", "target/d.rs"),
        ("", "debug.log", "debug.log"),
        ("debug.log", "", "debug.log"),
        (".github", "", ".github/workflows/ci.yml"),
        ("target", "", "target/d.rs"),
        (".venv", "", ".venv/lib.py"),
        (
            "",
            "**",
            "Cargo.toml src/a.rs src/x/b.rs tests/c.rs with space.txt",
        ),
    ] {
        let mut request = searching("word");
        request.path = path.into();
        request.globs = vec![glob.into()];
        let (lines, report) = found(&handle, request).await;
        let names: Vec<String> = lines
            .iter()
            .map(|line| line.path.replace(&format!("{dir}/"), ""))
            .collect();
        assert_eq!(names.join(" "), expected, "{glob:?} in {path:?}");
        let hidden =
            expected.starts_with('.') || expected.starts_with("target") || glob == "debug.log";
        let said = report.notes.iter().any(|note| note.contains("git-ignored"));
        let by_itself = path == ".github" || path == "target";
        assert_eq!(
            said,
            hidden && !by_itself,
            "{glob:?} in {path:?}: {:?}",
            report.notes
        );
    }
    for (path, glob, said) in [
        (
            "",
            "*.nope",
            "matches the glob `*.nope`, hidden and git-ignored ones included",
        ),
        ("", "*.rs *.toml", "separated by commas"),
        ("tests", absolute.as_str(), "give `path` the directory"),
    ] {
        let mut request = searching("word");
        request.path = path.into();
        request.globs = vec![glob.into()];
        let (lines, report) = found(&handle, request).await;
        assert_eq!(lines, []);
        assert!(
            report.notes.concat().contains(said),
            "{glob}: {:?}",
            report.notes
        );
    }
}
