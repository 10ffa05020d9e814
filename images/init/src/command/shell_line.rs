//! Which shell lines need no shell.
//!
//! A line of a program's name and plain arguments means the same with and without a shell. Without one it takes half the
//! time, since the shell need not start. Any other line goes to the shell. So does a program that can't be started: the
//! shell then reports the error.

/// Names with a meaning to the shell. `true` and `false` are not listed: as programs they do the same.
const SHELL_NAMES: &[&str] = &[
    ".",
    ":",
    "alias",
    "bg",
    "bind",
    "break",
    "builtin",
    "caller",
    "case",
    "cd",
    "command",
    "compgen",
    "complete",
    "compopt",
    "continue",
    "coproc",
    "declare",
    "dirs",
    "disown",
    "do",
    "done",
    "echo",
    "elif",
    "else",
    "enable",
    "esac",
    "eval",
    "exec",
    "exit",
    "export",
    "fc",
    "fg",
    "fi",
    "for",
    "function",
    "getopts",
    "hash",
    "help",
    "history",
    "if",
    "in",
    "jobs",
    "kill",
    "let",
    "local",
    "logout",
    "mapfile",
    "popd",
    "printf",
    "pushd",
    "pwd",
    "read",
    "readarray",
    "readonly",
    "return",
    "select",
    "set",
    "shift",
    "shopt",
    "source",
    "suspend",
    "test",
    "then",
    "time",
    "times",
    "trap",
    "type",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
    "until",
    "wait",
    "while",
];

/// Variables that a shell checks, or that change what it does before its line.
const SHELL_VARIABLES: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "ENV",
    "OLDPWD",
    "POSIXLY_CORRECT",
    "PWD",
    "SHELLOPTS",
    "SHLVL",
];

/// The words of a line that consists of a program and plain arguments.
pub(crate) fn words(line: &str) -> Option<Vec<String>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./,:=@%+".contains(c);
    if !line.chars().all(|c| plain(c) || c == ' ') {
        return None;
    }
    let words: Vec<String> = line
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    let program = words.first()?;
    (!program.contains('=') && !SHELL_NAMES.contains(&program.as_str())).then_some(words)
}

/// Whether a shell checks this variable, or does more than run its line because of it.
pub(crate) fn matters(variable: &str) -> bool {
    SHELL_VARIABLES.contains(&variable) || variable.starts_with("BASH_FUNC_")
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn a_program_and_its_arguments_are_words() {
        for (line, expected) in [
            ("true", vec!["true"]),
            ("  ls  -la /tmp ", vec!["ls", "-la", "/tmp"]),
            (
                "git log --format=%H -n 5",
                vec!["git", "log", "--format=%H", "-n", "5"],
            ),
            (
                "./configure --prefix=/usr",
                vec!["./configure", "--prefix=/usr"],
            ),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line:?}");
        }
    }

    #[test]
    fn what_a_shell_reads_otherwise_is_left_to_it() {
        for line in [
            "",
            "   ",
            "a=b",
            "a=b c",
            "cd /tmp",
            "echo -e x",
            "exit 3",
            "time ls",
            "ls | wc",
            "ls > x",
            "ls *",
            "ls ?",
            "ls [ab]",
            "ls $HOME",
            "ls `x`",
            "ls 'a b'",
            "ls \"a\"",
            "ls a\\ b",
            "ls ~",
            "ls {a,b}",
            "ls # x",
            "ls; ls",
            "ls &",
            "ls\nls",
            "ls\tx",
            "! ls",
            "(ls)",
            "test -e x",
            ". ./x",
            "pwd",
            "ls ^a",
            "héllo",
            "ls\r",
        ] {
            assert_eq!(words(line), None, "{line:?}");
        }
    }
}
