//! The program's standard streams: readers that leave, disks that are full, terminals that a person types on.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};

use clap::Command;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::tmux::Tmux;
use crate::common::{Place, SOON, eventually, lossy};

/// What a stream of the program is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum To {
    /// A pipe that is read.
    Reader,
    /// A pipe whose reader has gone.
    Nobody,
    /// A full disk.
    Full,
    /// Closed.
    Closed,
}

impl To {
    fn stdio(self) -> Stdio {
        match self {
            Self::Reader | Self::Closed => Stdio::piped(),
            Self::Nobody => std::io::pipe().unwrap().1.into(),
            Self::Full => File::options()
                .write(true)
                .open("/dev/full")
                .unwrap()
                .into(),
        }
    }
}

/// Runs the program to its end with these streams.
async fn run(place: &Place, arguments: &[&str], out: To, err: To) -> Output {
    let program = place.command(arguments);
    let mut command = match out == To::Closed || err == To::Closed {
        false => program,
        true => {
            let mut closed = "exec \"$0\" \"$@\"".to_owned();
            for (stream, number) in [(out, 1), (err, 2)] {
                if stream == To::Closed {
                    closed += &format!(" {number}>&-");
                }
            }
            let mut shell = tokio::process::Command::new("sh");
            shell.args(["-c", &closed, crate::common::PROGRAM]);
            shell
                .args(arguments)
                .current_dir(&place.workspace)
                .env_clear();
            for (name, value) in program.as_std().get_envs() {
                if let Some(value) = value {
                    shell.env(name, value);
                }
            }
            shell
        }
    };
    command
        .env("SNOWGLOBE_DATA_DIR", place.dir.path().join("data"))
        // Nothing boots: no such image can be.
        .env("SNOWGLOBE_IMAGE", "no/Such")
        .stdin(Stdio::null())
        .stdout(out.stdio())
        .stderr(err.stdio())
        .kill_on_drop(true);
    tokio::time::timeout(SOON, command.spawn().unwrap().wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{arguments:?} does not end"))
        .unwrap()
}

/// The subcommands and actions below a command, each as the words that name it.
fn leaves(command: &Command, path: &[String], found: &mut Vec<(Vec<String>, Command)>) {
    for subcommand in command.get_subcommands() {
        let path = [path, &[subcommand.get_name().to_owned()]].concat();
        leaves(subcommand, &path, found);
        found.push((path, subcommand.clone()));
    }
}

/// Values for the arguments that the command needs.
fn values(command: &Command) -> Vec<String> {
    let required = command.get_arguments().filter(|it| it.is_required_set());
    required
        .map(|argument| {
            let possible = argument.get_possible_values();
            let first = possible.first().map(|value| value.get_name().to_owned());
            first.unwrap_or_else(|| "no/Such".to_owned())
        })
        .collect()
}

/// The list of subcommands is clap's own, so a new one is tested, too.
#[tokio::test(flavor = "multi_thread")]
async fn no_stream_makes_a_subcommand_panic_or_lose_its_output() {
    let place = Place::new("minimal");
    let command = snowglobe::cli::command();
    let mut found = vec![(Vec::new(), command.clone())];
    leaves(&command, &[], &mut found);
    assert!(found.len() > 20);
    for (path, command) in found {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let help = [&words[..], &["--help"]].concat();
        for (out, expected) in [
            (To::Reader, 0),
            (To::Nobody, 141),
            (To::Full, 125),
            (To::Closed, 0),
        ] {
            let output = run(&place, &help, out, To::Reader).await;
            let said = lossy(&output.stderr);
            assert_eq!(
                output.status.code(),
                Some(expected),
                "{help:?} {out:?}: {said}"
            );
            assert_eq!(
                said.contains("standard output"),
                out == To::Full,
                "{help:?}: {said}"
            );
            for line in lossy(&output.stdout).lines() {
                assert!(line.chars().count() <= 80, "{help:?}: {line}");
            }
        }
        let values = values(&command);
        let words = [
            &words[..],
            &values.iter().map(String::as_str).collect::<Vec<_>>(),
        ]
        .concat();
        let reference = run(&place, &words, To::Reader, To::Reader).await;
        for (out, err) in [
            (To::Nobody, To::Reader),
            (To::Full, To::Reader),
            (To::Reader, To::Nobody),
            (To::Nobody, To::Nobody),
            (To::Full, To::Full),
            (To::Closed, To::Closed),
        ] {
            let output = run(&place, &words, out, err).await;
            let (code, said) = (output.status.code(), lossy(&output.stderr));
            assert!(
                code.is_some() && code != Some(101),
                "{words:?} {out:?} {err:?}: {output:?}"
            );
            assert!(!said.contains("panicked"), "{words:?}: {said}");
            let prints = !reference.stdout.is_empty();
            match (out, err) {
                (To::Full, _) if prints => assert_ne!(code, Some(0), "{words:?}: {said}"),
                (To::Nobody, _) if prints => assert_eq!(code, Some(141), "{words:?}: {said}"),
                (To::Reader, To::Nobody) => assert_eq!(code, reference.status.code(), "{words:?}"),
                _ => {}
            }
        }
    }
}

/// Interrupts a program as ctrl-C does; its status, and what it said on standard error.
async fn interrupted(child: &mut tokio::process::Child) -> (std::process::ExitStatus, String) {
    use tokio::io::AsyncReadExt;
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ended = tokio::time::timeout(SOON, child.wait()).await;
    let status = ended.expect("it ends").unwrap();
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut said).await.unwrap();
    (status, said)
}

/// One kept sandbox, and all that scripts do with `exec` in it.
#[tokio::test(flavor = "multi_thread")]
async fn exec_loses_nothing_and_leaves_nothing_behind() {
    let place = Place::new("minimal");
    let (code, _, err) = place.run(&["-q", "start"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "-q says nothing");
    let script = |text: &'static str| {
        let mut shell = tokio::process::Command::new("bash");
        shell.args(["-c", text, crate::common::PROGRAM]);
        shell
            .current_dir(&place.workspace)
            .env_clear()
            .kill_on_drop(true);
        for (name, value) in place.command(&[]).as_std().get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        let done = shell.stdin(Stdio::null()).output();
        async move {
            let output = tokio::time::timeout(SOON, done)
                .await
                .expect("it ends")
                .unwrap();
            (lossy(&output.stdout), lossy(&output.stderr))
        }
    };
    let gone = async |program: &'static str| {
        let line = format!("while pidof {program}; do sleep 0.1; done");
        let (code, _, err) = place.run(&["exec", "--timeout", "1m", "--", &line]).await;
        assert_eq!(code, 0, "{program} still runs: {err}");
    };
    // A reader that has gone ends the command, on either stream, and with it what it started.
    let ended = script("\"$0\" exec -- yes | head -1; echo ${PIPESTATUS[0]}").await;
    assert_eq!(ended, ("y\n141\n".into(), String::new()));
    gone("yes").await;
    let ended =
        script("\"$0\" exec -- 'yes >&2' 2>&1 >/dev/null | head -n 0; echo ${PIPESTATUS[0]}").await;
    assert_eq!(ended, ("141\n".into(), String::new()));
    gone("yes").await;
    // Output that can't be written is an error that says so.
    let full = script("\"$0\" exec -- 'echo x' >/dev/full; echo $?").await;
    assert!(
        full.0 == "125\n" && full.1.contains("write to standard output: No space left"),
        "{full:?}"
    );
    assert!(!full.1.contains("image prune"), "{full:?}");
    let full = script("\"$0\" exec -- 'echo x >&2' 2>/dev/full; echo $?").await;
    assert_eq!(full.0, "125\n");
    // Words keep their bytes, and so do paths.
    let bytes = "\"$0\" exec -- printf '%s|' $'a\\xff' $'\\xc3' é | od -An -tx1 | tr -d ' \\n'";
    assert_eq!(script(bytes).await.0, "61ff7cc37cc3a97c");
    let line = "\"$0\" exec -- $'printf \\'%s\\' \\xfe' | od -An -tx1 | tr -d ' \\n'";
    assert_eq!(script(line).await.0, "fe");
    let path = "mkdir $'d\\xff' && \"$0\" exec --cwd $'d\\xff' -- 'pwd | tail -c 3' | od -An -tx1 | tr -d ' \\n'";
    assert_eq!(script(path).await.0, "64ff0a");
    for (words, expected) in [
        (&["exec", "--", "no-such-program", "x"][..], 127),
        (&["exec", "--", "no-such-program"], 127),
        (&["exec", "--", "/etc/passwd", "x"], 126),
        (&["exec", "--", "/etc", "x"], 126),
        (&["exec", "--cwd", "/no/such", "--", "true"], 125),
        (&["exec", "--rooot", "true"], 2),
        (&["exec", "--cpus", "0", "true"], 2),
        (&["exec", "--image", "no/Such", "true"], 125),
        (&["exec", "--timeout", "1s", "--", "sleep 60"], 124),
        (&["exec", "--timeout", "0", "sh", "-c", "kill -9 $$"], 137),
        (&["exec", "-it", "--", "true"], 2),
        (&["exec", "-t", "--", "test -t 1"], 0),
        (&["exec", "--", "test -t 1"], 1),
        (&["snapshot", "save", "a/b"], 2),
        (&["image", "inspect", "A!"], 2),
    ] {
        let (code, _, err) = place.run(words).await;
        assert_eq!(code, expected, "{words:?}: {err}");
        assert_eq!(
            expected == 2,
            err.contains("error: ") || words[1] == "inspect" || words[1] == "-it",
            "{err}"
        );
    }
    // ctrl-C is quiet and leaves nothing behind, also while nobody reads the output.
    for line in ["sleep 1234", "yes"] {
        let mut command = place.command(&["exec", "--", line]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let program = line.split(' ').next().unwrap();
        let begun = format!("until pidof {program}; do sleep 0.1; done");
        let (code, _, err) = place.run(&["exec", "--timeout", "1m", "--", &begun]).await;
        assert_eq!(code, 0, "{err}");
        let (status, said) = interrupted(&mut child).await;
        assert_eq!(
            (status.code(), status.signal()),
            (Some(130), None),
            "{line}"
        );
        assert_eq!(said, "");
        match program {
            "sleep" => gone("sleep").await,
            _ => gone("yes").await,
        }
    }
}

/// A signal while a sandbox of one's own boots.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_while_it_boots_is_quiet_and_leaves_nothing_behind() {
    let place = Place::new("minimal");
    let mut command = place.command(&["exec", "--rm", "--", "true"]);
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let runtime = place.runtime_dir();
    eventually("a runner", || runtime.read_dir().unwrap().next().is_some()).await;
    let (status, said) = interrupted(&mut child).await;
    assert_eq!((status.code(), said.as_str()), (Some(130), ""));
    assert_eq!(runtime.read_dir().unwrap().count(), 0);
}

/// Programs that a person types to: a terminal by default where there is one, of its size, ended by its keys.
#[tokio::test(flavor = "multi_thread")]
async fn python_is_used_on_a_real_terminal() {
    let place = Place::new("debian");
    let tmux = Tmux::start(&place, 40, 20);
    tmux.kind(&format!(
        "TERM=dumb {} exec -- python3; echo left with $?",
        tmux.program
    ));
    eventually("a prompt", || tmux.shows(">>>")).await;
    assert!(!tmux.shows("\u{1b}"));
    tmux.kind("import os; os.environ['TERM'], *os.get_terminal_size()");
    eventually("the size", || tmux.shows("('dumb', 40, 20)")).await;
    tmux.run(&["resize-window", "-x", "60", "-y", "15"]);
    eventually("the new size", || {
        tmux.kind("tuple(os.get_terminal_size())");
        tmux.shows("(60, 15)")
    })
    .await;
    tmux.kind("import time; print('sle' 'eps'); time.sleep(600)");
    eventually("the sleep", || tmux.shows("sleeps")).await;
    tmux.press("C-c");
    eventually("the interrupt", || tmux.shows("KeyboardInterrupt")).await;
    tmux.press("C-d");
    // Some versions of Python end by SIGINT if they ever were interrupted.
    eventually("the end", || {
        tmux.shows("left with 0") || tmux.shows("left with 130")
    })
    .await;
    // The terminal is as it was: what is typed is shown, and ctrl-C ends a program of this host.
    tmux.kind("clear; stty -a | grep -q ' echo ' && echo is''on; sleep 600");
    eventually("its echo", || tmux.shows("ison")).await;
    tmux.end_by("C-c").await;
    // With -T the command has pipes, and ctrl-C is this program's.
    tmux.kind(&format!(
        "clear; {} exec -T -- 'test -t 1; echo $?; sleep 600'; echo left with $?",
        tmux.program
    ));
    eventually("no terminal", || tmux.shows("1\n")).await;
    tmux.press("C-c");
    eventually("the end", || tmux.shows("left with 130")).await;
    tmux.kind(&format!(
        "clear; {} exec -it -- sh -c 'stty size; exit 7'; echo left with $?",
        tmux.program
    ));
    eventually("the end", || {
        tmux.shows("15 60") && tmux.shows("left with 7")
    })
    .await;
}
