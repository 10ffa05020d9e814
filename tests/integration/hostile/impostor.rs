//! A runner with a hostile guest in place of the real init: the guest logs in as init does, answers the first request,
//! and then misbehaves.
//!
//! The test program itself plays runner and guest; a script in the runner's place starts it.

use std::io::{BufRead, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use russh::keys::PrivateKey;
use russh::server::{Config, Msg};
use russh::{Channel, ChannelMsg, SshId};
use snowglobe_init::boot::{BOOT_CONFIG_PATH, BootConfig};
use snowglobe_init::wire::{EXT_REPORT, Report, Request, VERSION};
use snowglobe_runner::{Action, Answer, Event, VmRequest, VmSpec};
use tokio::io::AsyncWriteExt;

use super::server::Server;

/// How the guest misbehaves after its login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Play {
    /// Endless bytes in place of the link's first line.
    NoBeginning,
    /// Endless data.
    Data,
    /// An endless report.
    Report,
    /// Endless requests on the call's channel.
    Chatter,
    /// Opens 10,000 channels while a call waits.
    Channels,
    /// Opens 10,000 channels while no call runs.
    ChannelsUnasked,
    /// Never answers again.
    Silence,
}

const PLAYS: [Play; 7] = [
    Play::NoBeginning,
    Play::Data,
    Play::Report,
    Play::Chatter,
    Play::Channels,
    Play::ChannelsUnasked,
    Play::Silence,
];

/// The environment variable that selects the misbehaviour.
const VARIABLE: &str = "SNOWGLOBE_TEST_PLAY";

/// A directory for `SNOWGLOBE_LIBEXEC` whose runner is this test's program, running the test `test`, which must call
/// [`play`].
pub(crate) fn libexec(dir: &Path, test: &str, play: Play) -> PathBuf {
    let libexec = dir.join("libexec");
    std::fs::create_dir(&libexec).unwrap();
    let init = Path::new(crate::common::PROGRAM).with_file_name("snowglobe-init");
    symlink(init, libexec.join("snowglobe-init")).unwrap();
    let script = format!(
        "#!/bin/sh\ncase $1 in --descriptors=*) ;; *) exit 1 ;; esac\nexport {VARIABLE}={}\n\
         exec '{}' --ignored --exact {test} --nocapture 3>&1 >&2\n",
        PLAYS.iter().position(|known| *known == play).unwrap(),
        std::env::current_exe().unwrap().display(),
    );
    let runner = libexec.join("snowglobe-runner");
    crate::common::executable(&runner, &script);
    libexec
}

fn say(event: &Event) {
    let mut line = serde_json::to_vec(event).unwrap();
    line.push(b'\n');
    let mut out = std::fs::File::options()
        .write(true)
        .open("/proc/self/fd/3")
        .unwrap();
    out.write_all(&line).unwrap();
}

/// Plays the runner and its guest until the parent closes standard input.
pub(crate) fn play() {
    let number: usize = std::env::var(VARIABLE).unwrap().parse().unwrap();
    let mut lines = std::io::stdin().lock().lines().map_while(Result::ok);
    let spec: VmSpec = serde_json::from_str(&lines.next().unwrap()).unwrap();
    let key = PrivateKey::from_openssh(boot_config(&spec.initramfs).host_key).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = snowglobe_runner::socket::bind(&spec.link_socket).unwrap();
    runtime.spawn(serve(listener, key, PLAYS[number]));
    say(&Event::Started {
        pid: std::process::id(),
        missing_fences: Vec::new(),
    });
    for line in lines {
        let request: VmRequest = serde_json::from_str(&line).unwrap();
        if request.action == Action::Stop {
            break;
        }
        say(&Event::Reply {
            id: request.id,
            result: Ok(Answer::Done),
        });
    }
    for path in &spec.remove {
        let _ = std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path));
    }
    say(&Event::Exited {
        clean: false,
        reason: "it was told to stop".into(),
        console: Vec::new(),
    });
    std::process::exit(0);
}

fn boot_config(initramfs: &Path) -> BootConfig {
    let mut archive = std::fs::File::open(initramfs).unwrap();
    loop {
        let mut entry = cpio::newc::Reader::new(archive).unwrap();
        if format!("/{}", entry.entry().name()) == BOOT_CONFIG_PATH {
            return serde_json::from_reader(&mut entry).unwrap();
        }
        archive = entry.finish().unwrap();
    }
}

async fn serve(listener: std::os::unix::net::UnixListener, key: PrivateKey, play: Play) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    let config = Arc::new(Config {
        server_id: SshId::Standard(VERSION.identification().into()),
        keys: vec![key],
        ..Config::default()
    });
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        if play == Play::NoBeginning {
            while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
            continue;
        }
        let Ok(Some(stream)) =
            snowglobe_init::link::synchronize(stream, snowglobe_init::link::SSH).await
        else {
            continue;
        };
        let trusted = Arc::new(AtomicBool::new(false));
        let server = Server::new(move |channel, handle| {
            tokio::spawn(answer(channel, handle, play, trusted.clone()));
        });
        if let Ok(session) = russh::server::run_stream(config.clone(), stream, server).await {
            let _ = session.await;
        }
    }
}

async fn answer(
    mut channel: Channel<Msg>,
    handle: russh::server::Handle,
    play: Play,
    trusted: Arc<AtomicBool>,
) {
    let mut asked = Vec::new();
    while let Some(message) = channel.wait().await {
        let ChannelMsg::Data { data } = message else {
            continue;
        };
        asked.extend_from_slice(&data);
        let length = asked.first_chunk().map(|head| u32::from_be_bytes(*head));
        if length.is_some_and(|length| asked.len() >= length as usize + 4) {
            break;
        }
    }
    let request: Request = serde_json::from_slice(&asked[4..]).unwrap();
    if !trusted.swap(true, Ordering::Relaxed) {
        assert!(matches!(request, Request::Renew { .. }));
        let report = serde_json::to_vec(&Report::Done).unwrap();
        channel
            .extended_data_bytes(EXT_REPORT, report)
            .await
            .unwrap();
        channel.eof().await.unwrap();
        channel.close().await.unwrap();
        if play == Play::ChannelsUnasked {
            tokio::time::sleep(Duration::from_millis(300)).await;
            open_channels(&handle).await;
        }
        return;
    }
    let piece = || vec![b'x'; 32_000];
    match play {
        Play::Data => while channel.data_bytes(piece()).await.is_ok() {},
        Play::Report => {
            while channel
                .extended_data_bytes(EXT_REPORT, piece())
                .await
                .is_ok()
            {}
        }
        Play::Chatter => while channel.exit_status(1).await.is_ok() {},
        Play::Channels => open_channels(&handle).await,
        Play::NoBeginning | Play::ChannelsUnasked | Play::Silence => {
            std::future::pending::<()>().await;
        }
    }
}

async fn open_channels(handle: &russh::server::Handle) {
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..10_000 {
        let handle = handle.clone();
        opening.spawn(async move { handle.channel_open_session().await.map(drop) });
    }
    opening.join_all().await;
}
