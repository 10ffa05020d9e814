use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::agent::tui::theme::Theme;

fn page() -> Page {
    Page {
        columns: 80,
        theme: Theme {
            unicode: true,
            ..Theme::default()
        },
    }
}

fn shown(name: &str, arguments: Value, text: &str, is_error: bool) -> (Vec<String>, bool) {
    let call = Call {
        id: "1".to_owned(),
        name: name.to_owned(),
        arguments,
    };
    let result = CallResult::text(&call, text, is_error);
    let took = Some(Duration::from_millis(350));
    let (lines, folded) = ended(&call, &result, took, false, page());
    let lines = lines
        .iter()
        .map(|line| line.to_string().trim_end().to_owned());
    (lines.collect(), folded.is_some())
}

#[test]
fn a_command_is_its_line_the_end_of_its_output_and_how_it_ended() {
    let output: String = (1..=9).map(|at| format!("[{at}]\n")).collect();
    let text = format!("{output}[exit code 1, 0.35 s]\n[a note]");
    let (lines, folded) = shown("exec", json!({"command": "make\ntest"}), &text, false);
    let expected = [
        "● exec make (+1 lines)",
        "  … 3 lines above",
        "  [4]",
        "  [5]",
        "  [6]",
        "  [7]",
        "  [8]",
        "  [9]",
        "  └ exit code 1, 0.35 s; ctrl-O shows all",
        "  [a note]",
    ];
    assert_eq!(lines, expected);
    assert!(folded);
    let (lines, folded) = shown(
        "exec",
        json!({"command": ["ls", "-l"]}),
        "[no output]\n[exit code 0, 0.01 s]",
        false,
    );
    assert_eq!(lines, ["● exec ls -l", "  └ exit code 0, 0.01 s"]);
    assert!(!folded);
}

#[test]
fn other_tools_are_a_line_with_what_matters() {
    let text = "     1\ta\n     2\tb\n[lines 1 to 2 of 9; go on with offset 3]";
    let (lines, _) = shown("read", json!({"path": "a.c"}), text, false);
    assert_eq!(
        lines,
        [
            "● read a.c",
            "  └ lines 1 to 2 of 9; go on with offset 3, 0.35 s; ctrl-O shows more"
        ]
    );
    let (lines, _) = shown(
        "snapshot",
        json!({"action": "save", "name": "x"}),
        "[saved `x` in 0.1 s]",
        false,
    );
    assert_eq!(
        lines,
        ["● snapshot save x", "  └ saved `x` in 0.1 s, 0.35 s"]
    );
    let (lines, _) = shown(
        "write",
        json!({"path": "a", "content": "x\ny\n"}),
        "[wrote 4 bytes to /a]",
        false,
    );
    assert_eq!(
        lines,
        [
            "● write a",
            "  +x",
            "  +y",
            "  └ wrote 4 bytes to /a, 0.35 s"
        ]
    );
    let (lines, _) = shown("other", json!("no object\u{1b}"), "no\tsuch", true);
    assert_eq!(
        lines,
        ["● other no object\\u{1b}", "  no    such", "  └ 0.35 s"]
    );
}

#[test]
fn a_running_call_shows_its_newest_lines() {
    let call = Call {
        id: "1".to_owned(),
        name: "exec".to_owned(),
        arguments: json!({"command": "x"}),
    };
    let now = Duration::ZERO;
    let mut running = Running::new(call, false, now);
    for at in 0..100 {
        running.progress(&format!("line {at}"));
    }
    let few = running.lines(page(), now + Duration::from_secs(3), false);
    assert_eq!(few.len(), 5);
    assert_eq!(few[4].to_string(), "  └ 3s (97 lines above)");
    assert_eq!(running.lines(page(), now, true).len(), 42);
}

proptest! {
    #[test]
    fn any_result_is_shown(name in "exec|edit|write|read|job|x", text in "(\\[exit code|\\]|\\[|\n|日|[a-z ]){0,40}", error in any::<bool>()) {
        shown(&name, json!({"content": text, "command": text}), &text, error);
    }
}
