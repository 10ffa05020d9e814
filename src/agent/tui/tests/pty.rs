//! The front end on a real terminal, with a loop that answers by itself.
//!
//! [`on_this_terminal`] is no test: tmux runs it, in a process of its own.

use std::path::Path;
use std::process::Command as Process;
use std::time::Instant;

use tokio::sync::mpsc;

use super::*;
use crate::agent::event::{Handle, SandboxState, TurnEnd};
use crate::agent::session::EntryId;
use crate::agent::tui::{Options, run};

/// Runs the front end on this terminal. The loop repeats what it is told, and shows what it was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a terminal, which another test gives it"]
async fn on_this_terminal() {
    let (commands, mut asked) = mpsc::unbounded_channel();
    let (events, received) = mpsc::unbounded_channel();
    let handle = Handle {
        commands,
        events: received,
    };
    let dir = std::env::var_os("FRONT_DIR").unwrap();
    let options = Options {
        project: Path::new(&dir).to_owned(),
        data_dir: Path::new(&dir).to_owned(),
        prompt: None,
        resume: false,
        shell: None,
        network: Default::default(),
    };
    tokio::spawn(async move {
        let model = Event::Model {
            name: "scripted/echo".to_owned(),
            window: 1_000,
        };
        events.send(model).ok();
        events.send(Event::Sandbox(SandboxState::Off)).ok();
        let mut entry = 0;
        while let Some(command) = asked.recv().await {
            let (text, what) = match command {
                Command::Quit => break,
                Command::Send(prompt) => (prompt.text.clone(), prompt.text),
                other => (String::new(), format!("{other:?}")),
            };
            if text == "panic" {
                panic!("as asked for");
            }
            entry += 1;
            let said = Event::Said {
                entry: EntryId(entry),
                text,
            };
            let flood = what.starts_with("flood");
            let mut all = vec![said, Event::TurnBegan];
            match flood {
                true => all.extend((0..20_000).map(|at| Event::Text(format!("token{at} ")))),
                false => all.push(Event::Text(format!("You said: **{what}**\n"))),
            }
            all.push(answered(""));
            all.push(Event::TurnEnded(TurnEnd::Done));
            for event in all {
                events.send(event).ok();
            }
        }
    });
    let signal = run(options, handle).await.unwrap();
    crate::show!("ended by {signal:?}");
}

/// A terminal of tmux with a shell in it.
struct Tmux {
    socket: String,
    dir: tempfile::TempDir,
}

impl Tmux {
    fn start(columns: u16, rows: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("tmux").display().to_string();
        let tmux = Self { socket, dir };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        tmux.run(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &rows,
            "env PS1='$ ' sh",
        ]);
        tmux.eventually("the shell's prompt", |shown| shown.contains('$'));
        tmux
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = Process::new("tmux")
            .args(["-S", &self.socket])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn typed(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
    }

    fn key(&self, key: &str) {
        self.run(&["send-keys", key]);
    }

    /// All lines, those that have scrolled away, too.
    fn shown(&self) -> String {
        self.run(&["capture-pane", "-p", "-S", "-5000"])
    }

    fn eventually(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let shown = self.shown();
            if condition(&shown) {
                return shown;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{what}:\n{shown}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Checks that a shell has the terminal as it was.
    fn is_restored(&self) {
        self.typed("stty -a | grep -o ' [-]*\\(echo\\|icanon\\) '; echo left $?");
        self.key("Enter");
        let shown = self.eventually("the shell's echo", |shown| shown.contains("left 0"));
        // What is typed before the shell's prompt leaves the prompt in front of the first answer.
        let has = |word: &str| {
            let mut lines = shown.lines();
            lines.any(|line| line.trim_start_matches('$').trim() == word)
        };
        assert!(has("icanon") && has("echo"), "{shown}");
    }

    /// Starts the front end.
    fn front(&self, variables: &str) {
        let program = std::env::current_exe().unwrap();
        let dir = self.dir.path().display();
        let line = format!(
            "clear; FRONT_DIR={dir} LANG=C.UTF-8 {variables} {} -q --ignored --nocapture --exact \
             agent::tui::tests::pty::on_this_terminal",
            program.display()
        );
        self.typed(&line);
        self.key("Enter");
        self.eventually("the footer", |shown| {
            shown.contains("echo · 100% context left")
        });
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        Process::new("tmux")
            .args(["-S", &self.socket, "kill-server"])
            .output()
            .ok();
    }
}

#[test]
fn a_person_talks_resizes_and_leaves() {
    let tmux = Tmux::start(80, 24);
    tmux.front("EDITOR='printf edited >'");
    // A line and its end at once, as a fast typist and a script send them.
    tmux.typed("hello 日本");
    tmux.key("Enter");
    tmux.eventually("the answer", |shown| {
        shown.contains("You said: hello 日本\n")
    });
    tmux.typed("flood");
    tmux.key("Enter");
    tmux.typed("typed meanwhile");
    tmux.eventually("what was typed", |shown| {
        shown.contains("❯ typed meanwhile")
    });
    let all = tmux.eventually("the end of the stream", |shown| {
        shown.contains("token19999")
    });
    for at in [17_000, 19_000, 19_998] {
        assert_eq!(all.matches(&format!("token{at} ")).count(), 1, "{at}");
    }
    // Narrower and wider: one editor and one footer remain.
    for columns in ["40", "120", "60"] {
        tmux.run(&["resize-window", "-x", columns, "-y", "20"]);
        tmux.key("x");
        let one = |shown: &str| {
            shown.matches("❯ typed meanwhilex").count() == 1
                && shown.matches("echo · 100%").count() == 1
        };
        tmux.eventually("one editor", one);
        tmux.key("BSpace");
        tmux.eventually("the key's end", |shown| !shown.contains("meanwhilex"));
    }
    tmux.key("C-g");
    tmux.eventually("the editor's text", |shown| shown.contains("❯ edited"));
    tmux.key("C-c");
    tmux.key("C-z");
    tmux.eventually("the stopped job", |shown| shown.contains("Stopped"));
    tmux.is_restored();
    tmux.typed("fg");
    tmux.key("Enter");
    tmux.typed("back");
    tmux.key("Enter");
    tmux.eventually("the answer", |shown| shown.contains("You said: back"));
    tmux.key("C-d");
    tmux.eventually("the end", |shown| shown.contains("test result: ok"));
    tmux.typed("clear");
    tmux.key("Enter");
    tmux.is_restored();
}

#[test]
fn a_signal_or_a_panic_leaves_the_terminal_as_it_was() {
    let tmux = Tmux::start(80, 24);
    for end in ["TERM", "HUP", "panic"] {
        tmux.front("");
        match end {
            "panic" => {
                tmux.typed("panic");
                tmux.key("Enter");
            }
            signal => {
                let pane = tmux.run(&["display-message", "-p", "#{pane_pid}"]);
                let found = Process::new("pgrep")
                    .args(["-P", pane.trim()])
                    .output()
                    .unwrap();
                let child = String::from_utf8_lossy(&found.stdout).trim().to_owned();
                let killed = Process::new("kill")
                    .args([&format!("-{signal}"), &child])
                    .status();
                assert!(killed.unwrap().success());
            }
        }
        let shown = tmux.eventually("the end", |shown| shown.contains("test result:"));
        match end {
            "TERM" => assert!(shown.contains("ended by Some(15)"), "{shown}"),
            "HUP" => assert!(shown.contains("ended by Some(1)"), "{shown}"),
            _ => assert!(shown.contains("as asked for"), "{shown}"),
        }
        tmux.is_restored();
    }
}

#[test]
fn a_terminal_that_moves_no_cursor_is_refused() {
    let tmux = Tmux::start(80, 24);
    let program = std::env::current_exe().unwrap();
    let dir = tmux.dir.path().display();
    let line = format!(
        "FRONT_DIR={dir} TERM=dumb {} -q --ignored --nocapture --exact agent::tui::tests::pty::on_this_terminal",
        program.display(),
    );
    tmux.typed(&line);
    tmux.key("Enter");
    tmux.eventually("the refusal", |shown| shown.contains("snowglobe agent -p"));
}
