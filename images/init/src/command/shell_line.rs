//! Which shell lines need no shell.
//!
//! A line that is nothing but a program's name and plain arguments means the same with and without a shell, and without
//! it costs half: the shell's own start. Whatever could mean anything else goes to the shell, and so does a program that
//! can't be started, so that what is said about it is the shell's word.

/// Names that the shell itself means something by. `true` and `false` are not among them: as programs they do the same.
const SHELLS_OWN: &[&str] = &[
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

/// Variables that change what a shell does before its line, or that it would check.
const SHELLS_VARIABLES: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "ENV",
    "OLDPWD",
    "POSIXLY_CORRECT",
    "PWD",
    "SHELLOPTS",
    "SHLVL",
];

/// The words of a line that is a program and its arguments and nothing else.
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
    (!program.contains('=') && !SHELLS_OWN.contains(&program.as_str())).then_some(words)
}

/// Whether a shell would do more in this environment than run its line.
pub(crate) fn matters(variable: &str) -> bool {
    SHELLS_VARIABLES.contains(&variable) || variable.starts_with("BASH_FUNC_")
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
