use std::process::Command;

use proptest::prelude::*;

use super::*;

fn windows(text: &str) -> String {
    text.replace('\n', "\r\n")
}

/// Commands of every kind that hold no text of several lines.
const COMMANDS: &[&str] = &[
    "echo a",
    "true && echo \"b c\" || echo 'd'",
    "if true; then\n  echo yes\nelse\n  echo no\nfi",
    "for x in 1 2 3; do\n echo $x; done",
    "echo one \\\n  two \\\n# no comment in between",
    "# it's a comment with \" and ` and <<EOF",
    "echo a # it's one, too",
    "echo ${#HOME} $# a#b \\# '#'",
    "x=$(\necho inner\n)\necho \"$x\"",
    "echo \"outer $(echo inner\n echo more) end\"",
    "x=`echo back\necho quotes`",
    "case $x in\n  a) echo A;;\n  *) echo \"it's\";;\nesac",
    "y=$(case a in\n a) echo 1;;\n (b) echo 2;;\nesac)",
    "f() {\n  local a=1\n  echo $((1<<2)) $[2<<1]\n}\nf",
    "((i = 1 << 4))\necho $i",
    "cat <<<word",
    "cat <<< \"here string\"",
    "a=(\n  one # first\n  two\n)\necho ${a[@]}",
    "echo \"${x:-it is}\" ${x:-'a }'} \"${x:-\"b }\"}\"",
    "echo $'it\\'s' $\"locale\"",
    "[[ $x =~ ^(a|b)$ ]] || echo no",
    "(echo sub\n echo shell) | cat\n{ echo group\n}",
    "while read -r l; do\n echo \"$l\"\ndone </dev/null",
    "echo \\' \\\" \\`",
    "",
];

/// Texts of several lines: with line ends as on Windows, and what comes of them.
const TEXTS: &[(&str, &str)] = &[
    ("echo 'a\r\nb'\r\n", "echo 'a\r\nb'\n"),
    ("echo \"a\r\nb\" c\r\n", "echo \"a\r\nb\" c\n"),
    ("echo $'a\r\nb\\''\r\n", "echo $'a\r\nb\\''\n"),
    (
        "cat <<EOF\r\na\r\nit's\r\nEOF\r\n",
        "cat <<EOF\na\r\nit's\r\nEOF\n",
    ),
    (
        "cat <<-'E F' | tr a b\r\n\ta\r\n\tE F\r\n",
        "cat <<-'E F' | tr a b\n\ta\r\n\tE F\n",
    ),
    (
        "cat <<A - <<\\B\r\none\r\nA\r\ntwo\r\nB\r\necho c\r\n",
        "cat <<A - <<\\B\none\r\nA\ntwo\r\nB\necho c\n",
    ),
    (
        "x=$(cat <<\"E\"\r\n) '\r\nE\r\n)\r\n",
        "x=$(cat <<\"E\"\n) '\r\nE\n)\n",
    ),
    (
        "python3 - <<PY\r\nif 1:\r\n print(1)\r\nPY",
        "python3 - <<PY\nif 1:\r\n print(1)\r\nPY",
    ),
];

#[test]
fn texts_keep_their_line_ends() {
    for (before, after) in TEXTS {
        assert_eq!(unix(before), *after);
    }
    // By the shell's rules the first such line is the document's.
    let text = "cat <<E\nE\r\nE\necho a\r\n";
    assert_eq!(unix(text), "cat <<E\nE\r\nE\necho a\n");
}

#[test]
fn what_is_not_closed_is_left_as_it_is() {
    for text in [
        "echo 'a\r\n",
        "echo \"$(a\r\n\"",
        "echo ${a\r\n",
        "`a\r\n",
        "$((1\r\n",
    ] {
        assert_eq!(unix(text), text);
    }
    assert_eq!(unix("echo a\rb\r\n"), "echo a\rb\n");
    assert_eq!(unix("ls\r"), "ls");
    assert_eq!(unix("ls\r\r\n"), "ls\n");
}

#[test]
fn the_shell_does_the_same_with_it() {
    let run = |line: &str| Command::new("bash").args(["-c", line]).output().unwrap();
    for command in COMMANDS {
        let (plain, ours) = (run(command), run(&unix(&windows(command))));
        assert!(plain.status.success(), "{command}: {plain:?}");
        assert_eq!(plain, ours, "{command}");
    }
}

fn commands() -> impl Strategy<Value = Vec<String>> {
    let command = proptest::sample::select(COMMANDS).prop_map(str::to_owned);
    proptest::collection::vec(command, 0..8)
}

proptest! {
    #[test]
    fn commands_lose_what_windows_added(commands in commands()) {
        let line = commands.join("\n");
        let before = windows(&line);
        prop_assert_eq!(unix(&before), line);
    }

    #[test]
    fn texts_among_commands_keep_it(parts in proptest::collection::vec((commands(), proptest::sample::select(TEXTS)), 0..5)) {
        let (mut before, mut after) = (String::new(), String::new());
        for (commands, (text, kept)) in &parts {
            if after.ends_with("PY") {
                (before, after) = (before + "\r\n", after + "\n");
            }
            let line = commands.join("\n") + "\n";
            before = before + &windows(&line) + text;
            after = after + &line + kept;
        }
        prop_assert_eq!(unix(&before), after);
    }

    #[test]
    fn nothing_else_is_ever_lost(text in "[ab \\t\r\n#'\"`$(){}<\\-;&|\\[\\]\\\\é]{0,40}") {
        let ours = unix(&text);
        prop_assert_eq!(ours.replace('\r', ""), text.replace('\r', ""));
        if !text.contains("\r\n") && !text.ends_with('\r') {
            prop_assert_eq!(&*ours, &*text);
        }
    }
}
