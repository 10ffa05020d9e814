//! The agent on a real terminal, with a real sandbox and a scripted model.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::pty::Terminal;
use super::scripted::{Answer, Asked, ScriptedModel};
use super::task::Desk;

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (40, 12)];

/// What the footer shows from the first frame on.
pub(super) const READY: &str = "context left";

impl Desk {
    /// The agent on a terminal of that size.
    pub(super) fn on_a_terminal(&self, columns: u16, rows: u16) -> Terminal {
        let command = self.command(&[]);
        let command = command.as_std();
        let mut on_terminal = pty_process::blocking::Command::new(command.get_program())
            .args(command.get_args())
            .current_dir(command.get_current_dir().unwrap())
            .env_clear();
        for (name, value) in command.get_envs() {
            on_terminal = on_terminal.env(name, value.unwrap_or_default());
        }
        let on_terminal = on_terminal
            .env("TERM", "xterm-256color")
            .env("LANG", "C.UTF-8");
        Terminal::start(on_terminal, columns, rows)
    }
}

/// The screen, with all times and sizes that differ from run to run replaced by `N`.
fn steady(screen: &str) -> String {
    let words = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let mut steady = Vec::new();
        for (at, word) in words.iter().enumerate() {
            let unit = words
                .get(at + 1)
                .map_or("", |unit| unit.trim_matches([',', ';']));
            let is_time = word.parse::<f64>().is_ok() && ["s", "ms"].contains(&unit);
            steady.push(if is_time { "N" } else { word });
        }
        steady.join(" ").trim_end().to_owned()
    };
    let lines: Vec<String> = screen.lines().map(words).collect();
    format!("{}\n", lines.join("\n").trim_end())
}

/// Compares a screen with the one beside this file. `UPDATE_GOLDEN=1` writes it anew.
fn is_golden(name: &str, screen: &str) {
    let path = format!("tests/integration/agent/golden/{name}.txt");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let shown = steady(screen);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &shown).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        shown,
        expected,
        "{}: set UPDATE_GOLDEN=1 to accept",
        path.display()
    );
}

/// A program whose check fails is mended, on terminals of three sizes.
#[test]
fn a_task_is_seen_from_its_beginning_to_its_end() {
    for (columns, rows) in SIZES {
        let edit = json!({"path": "sum.c", "old_string": "a - b", "new_string": "a + b"});
        let check = || json!({"command": "make -s check"});
        let desk = Desk::new(
            "chat",
            "",
            ScriptedModel::start(vec![
                Answer::text("I run the check first.").and_call("exec", check()),
                Answer::call("read", json!({"path": "sum.c"})),
                Answer::text("It subtracts.").and_call("edit", edit),
                Answer::call("exec", check()),
                Answer::text(
                    "## Mended\n\n`sum` subtracted; now it **adds**:\n\n```c\nreturn a + b;\n```\n",
                ),
            ]),
        );
        let write =
            |name: &str, text: &str| std::fs::write(desk.place.workspace.join(name), text).unwrap();
        write(
            "sum.c",
            "#include <stdio.h>\n\nint sum(int a, int b) { return a - b; }\n\nint main(void)\n{\n\tint is = sum(2, 2);\n\t\
             printf(is == 4 ? \"all is well\\n\" : \"2 and 2 are %d\\n\", is);\n\treturn is != 4;\n}\n",
        );
        write("Makefile", "check: sum\n\t./sum\n");
        let mut terminal = desk.on_a_terminal(columns, rows);
        terminal.shows(READY);
        terminal.write("The check fails; mend it.\r");
        let whole = terminal.until("the end of the turn", |seen| {
            let is_over = !seen.text().contains("working");
            Some(seen.whole()).filter(|whole| is_over && whole.contains("Mended"))
        });
        let source = std::fs::read_to_string(desk.place.workspace.join("sum.c")).unwrap();
        assert!(source.contains("a + b"), "{source}");
        for part in ["2 and 2 are 0", "It subtracts.", "all is well", "Mended"] {
            assert!(whole.contains(part), "{part}:\n{whole}");
        }
        is_golden(&format!("task-{columns}x{rows}"), &whole);
        terminal.write("\x04");
        assert!(terminal.ended().success());
    }
}

/// Sizes that nobody chooses, and keys at each of them.
#[test]
fn terminals_of_any_size_are_left_in_order() {
    let desk = Desk::new(
        "chat",
        "",
        ScriptedModel::answering(|_| Answer::text("Yes, **here**. ".repeat(30))),
    );
    let mut terminal = desk.on_a_terminal(80, 24);
    terminal.shows(READY);
    for (columns, rows) in [
        (1, 1),
        (2, 1),
        (1, 40),
        (7, 3),
        (300, 2),
        (400, 120),
        (12, 5),
    ] {
        terminal.resize(columns, rows);
        terminal.write("are you there? \u{1f9ca}\u{4f60}\u{597d}\r/");
        terminal.write("\x1b[A\x1b[B\x7f");
    }
    terminal.resize(80, 24);
    terminal.write("last words\r");
    terminal.until("the last question", |seen| {
        let asked = desk.model.requests();
        let is_last = |asked: &Asked| asked.body.to_string().contains("last words");
        (asked.iter().any(is_last) && seen.text().contains(READY)).then_some(())
    });
    terminal.write("\x03\x04");
    assert!(terminal.ended().success());
}

/// If a terminal changes its size while somebody types, the program takes both the last key and the last size. It does
/// not matter which of them came first.
#[test]
fn keys_and_sizes_come_at_once() {
    let desk = Desk::new("chat", "", ScriptedModel::start(Vec::new()));
    let terminal = desk.on_a_terminal(80, 24);
    terminal.shows("sandbox off");
    for round in 0..200 {
        // A narrower terminal cuts a footer that was drawn for a wider one, so its last words tell for which it was drawn.
        let (columns, last) = [(40, "sandbox off"), (80, "no network")][round % 2];
        for burst in 0..4 {
            terminal.resize(81 + burst, 24);
            terminal.write("~");
        }
        if round % 4 < 2 {
            terminal.resize(columns, 24);
            terminal.write("~");
        } else {
            terminal.write("~");
            terminal.resize(columns, 24);
        }
        terminal.until("the keys, and the footer of that width", |seen| {
            let text = seen.text();
            let footer = text.lines().rfind(|line| line.contains(READY))?;
            (text.contains("~~~~~") && footer.ends_with(last)).then_some(())
        });
        terminal.write("\x15");
        terminal.until("an empty editor", |seen| {
            let text = seen.text();
            let editor = text.lines().rfind(|line| line.starts_with('❯'))?;
            (!editor.contains('~')).then_some(())
        });
    }
}

/// What a command prints and what a model says reaches the terminal as text only.
#[test]
fn nothing_reaches_the_terminal_raw() {
    const EVIL: &str = "\x1b]0;owned\x07\x1b]52;c;b3duZWQ=\x07\x1b[2J\x1b[?1049h\u{9b}31m\u{202e}";
    let evil = "printf '\\033]0;owned\\007\\033]52;c;b3duZWQ=\\007\\033[2J\\033[?1049h\\033P+q\\033\\\\end of it\\n'";
    let desk = Desk::new(
        "chat",
        "",
        ScriptedModel::start(vec![
            Answer::text(format!("{EVIL}I print. ")).and_call("exec", json!({"command": evil})),
            Answer::text(format!(
                "`{EVIL}` and\n\n```{EVIL}\n{EVIL}\n```\nThat was all."
            )),
        ]),
    );
    let mut terminal = desk.on_a_terminal(80, 24);
    terminal.shows(READY);
    terminal.write("go\r");
    terminal.shows("That was all.");
    terminal.seen(|seen| {
        let written = String::from_utf8_lossy(&seen.bytes);
        for raw in [
            "\x1b]0;",
            "\x1b]52;",
            "\x1b[2J",
            "\x1b[?1049h",
            "\x1bP+q",
            "\u{9b}",
            "\u{202e}",
        ] {
            assert!(!written.contains(raw), "{raw:?}");
        }
        assert!(seen.whole().contains("end of it"));
    });
    terminal.write("\x04");
    assert!(terminal.ended().success());
}

/// How long keys take, while the guest's processors are busy. A machine that is busy with other work is slower, so the
/// best of a few rounds counts: a program that is too slow is so in each.
#[test]
fn typing_never_waits() {
    let desk = Desk::new("chat", "", ScriptedModel::start(Vec::new()));
    let start = |arguments: &[&str]| desk.place.command(arguments).into_std().spawn().unwrap();
    assert!(start(&["start"]).wait().unwrap().success());
    let burn = ["exec", "-n", "--timeout", "0", "--", "while :; do :; done"];
    // Keys, processes that keep the guest busy, the pause between keys, and the most for 99 of 100 keys and for all.
    for (keys, burners, pause, most, most_of_all) in [
        (100, 0, None, 20, 50),
        (500, 1, Some(1), 120, 300),
        (500, 2, Some(10), 100, 500),
    ] {
        let mut burning: Vec<_> = (0..burners).map(|_| start(&burn)).collect();
        let mut best = (Duration::MAX, Duration::MAX);
        for _ in 0..5 {
            let terminal = desk.on_a_terminal(120, 40);
            terminal.shows(READY);
            let mut times = terminal.type_keys(keys, pause.map(Duration::from_millis));
            times.sort();
            let seen = (times[times.len() * 99 / 100 - 1], times[times.len() - 1]);
            best = best.min(seen);
            if best.0 < Duration::from_millis(most) && best.1 < Duration::from_millis(most_of_all) {
                break;
            }
        }
        for burner in &mut burning {
            assert!(
                burner.try_wait().unwrap().is_none(),
                "the guest was not busy"
            );
            burner.kill().unwrap();
            burner.wait().unwrap();
        }
        assert!(
            best.0 < Duration::from_millis(most) && best.1 < Duration::from_millis(most_of_all),
            "{keys} keys beside {burners} busy processes: 99 of 100 within {:?}, all within {:?}",
            best.0,
            best.1
        );
    }
}
