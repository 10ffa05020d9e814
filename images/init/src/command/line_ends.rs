//! Shell scripts with Windows line ends.
//!
//! To a shell, a carriage return before a line feed belongs to the last word: `echo a\r\n` prints it, and `then\r\n` is no
//! keyword. So carriage returns that end a line of commands are removed. Those in texts (quotes and here-documents) are
//! kept. The lexer therefore knows where quotes, here-documents, comments, arithmetic and nested constructs begin and
//! end. A script in which one of these is not closed stays unchanged.

use std::borrow::Cow;

/// The script with Unix line ends.
pub(crate) fn unix(text: &str) -> Cow<'_, str> {
    if !text.contains('\r') {
        return Cow::Borrowed(text);
    }
    let mut lexer = Lexer::new(text.as_bytes());
    match lexer.run().and_then(|()| String::from_utf8(lexer.out).ok()) {
        Some(text) => Cow::Owned(text),
        None => Cow::Borrowed(text),
    }
}

/// A construct that the lexer is inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Commands, up to what closes them.
    Commands(Close),
    /// `"…"`, in which expansions can be nested.
    Double,
    /// `${…}`, in which quotes are quotes, even within `"…"`.
    Braces,
    /// `$((…))`, `((…))` or `$[…]`: how many brackets are open.
    Arithmetic { open: u32, round: bool },
}

/// The end of a list of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    End,
    Parenthesis,
    Backquote,
}

/// A here-document that begins after the current line.
#[derive(Debug)]
struct Announced {
    delimiter: Vec<u8>,
    /// Whether tabs before the delimiter are ignored (`<<-`).
    tabs: bool,
    /// Whether the line that announced it has a Windows line end.
    returned: bool,
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    out: Vec<u8>,
    /// The open constructs, the innermost last.
    within: Vec<Within>,
    announced: Vec<Announced>,
    /// Whether the next character begins a word.
    word_starts: bool,
    /// Whether the next word is a command's name.
    command_starts: bool,
    /// For each level of commands, how many `case`s are open. The `)` of their patterns closes nothing.
    cases: Vec<u32>,
}

/// Words that a command follows.
const BEFORE_COMMANDS: &[&[u8]] = &[
    b"if", b"then", b"else", b"elif", b"while", b"until", b"do", b"!", b"{", b"time",
];

impl<'a> Lexer<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            out: Vec::with_capacity(text.len()),
            within: vec![Within::Commands(Close::End)],
            announced: Vec::new(),
            word_starts: true,
            command_starts: true,
            cases: vec![0],
        }
    }

    /// Reads the whole text. `None` if a construct in it is not closed.
    fn run(&mut self) -> Option<()> {
        while self.at < self.text.len() {
            match *self.within.last()? {
                Within::Commands(close) => self.commands(close)?,
                Within::Double => self.double()?,
                Within::Braces => self.braces()?,
                Within::Arithmetic { open, round } => self.arithmetic(open, round)?,
            }
        }
        (self.within == [Within::Commands(Close::End)]).then_some(())
    }

    fn next_is(&self, ahead: &[u8]) -> bool {
        self.text[self.at..].starts_with(ahead)
    }

    fn keep(&mut self, count: usize) {
        let end = (self.at + count).min(self.text.len());
        self.out.extend_from_slice(&self.text[self.at..end]);
        self.at = end;
    }

    /// The number of carriage returns here, if a line feed or the end of the text follows them.
    fn returns(&self) -> usize {
        let rest = &self.text[self.at..];
        let count = rest.iter().take_while(|byte| **byte == b'\r').count();
        match rest.get(count) {
            None | Some(b'\n') => count,
            Some(_) => 0,
        }
    }

    fn commands(&mut self, close: Close) -> Option<()> {
        let starts = std::mem::replace(&mut self.word_starts, true);
        let returns = self.returns();
        let byte = self.text[self.at];
        if returns > 0 {
            self.at += returns;
            for document in &mut self.announced {
                document.returned = true;
            }
            self.word_starts = starts;
            return Some(());
        }
        match byte {
            b'\n' => {
                self.keep(1);
                self.command_starts = true;
                self.documents();
            }
            b' ' | b'\t' => self.keep(1),
            b'#' if starts => self.comment(),
            b';' | b'&' | b'|' => {
                self.keep(1);
                self.command_starts = true;
            }
            b'<' if self.next_is(b"<<<") => self.keep(3),
            b'<' if self.next_is(b"<<") => self.announcement()?,
            b'<' | b'>' => self.keep(1),
            b'(' if starts && self.next_is(b"((") => self.open_arithmetic(2),
            b'(' => {
                self.keep(1);
                self.open_commands(Close::Parenthesis);
            }
            b')' => self.close_parenthesis(close),
            b'`' if close == Close::Backquote => {
                self.keep(1);
                self.close();
            }
            b'\\' if self.continues() => self.word_starts = starts,
            _ if starts && self.keyword() => {}
            _ => {
                self.word_starts = false;
                self.command_starts = false;
                self.part_of_word()?;
            }
        }
        Some(())
    }

    /// Takes a backslash with the line end that it removes; false if there is none here.
    fn continues(&mut self) -> bool {
        let rest = &self.text[self.at + 1..];
        let returns = rest.iter().take_while(|byte| **byte == b'\r').count();
        let continues = rest.get(returns) == Some(&b'\n');
        if continues {
            self.keep(1);
            self.at += returns;
            self.keep(1);
        }
        continues
    }

    fn open_commands(&mut self, close: Close) {
        self.within.push(Within::Commands(close));
        self.cases.push(0);
        (self.word_starts, self.command_starts) = (true, true);
    }

    /// Closes the innermost construct. The word around it continues.
    fn close(&mut self) {
        if let Some(Within::Commands(_)) = self.within.pop() {
            self.cases.pop();
        }
        (self.word_starts, self.command_starts) = (false, false);
    }

    fn close_parenthesis(&mut self, close: Close) {
        self.keep(1);
        let in_case = self.cases.last().is_some_and(|open| *open > 0);
        if close == Close::Parenthesis && !in_case {
            self.close();
        }
        (self.word_starts, self.command_starts) = (true, true);
        if matches!(self.within.last(), Some(Within::Double | Within::Braces)) {
            self.word_starts = false;
        }
    }

    /// Takes a keyword; false if there is none here.
    fn keyword(&mut self) -> bool {
        let rest = &self.text[self.at..];
        let plain = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'!' || *byte == b'{';
        let length = rest.iter().take_while(|byte| plain(byte)).count();
        let (word, after) = rest.split_at(length);
        let ends = after
            .first()
            .is_none_or(|byte| b" \t\r\n;&|()<>".contains(byte));
        let Some(cases) = self.cases.last_mut().filter(|_| ends) else {
            return false;
        };
        match word {
            b"case" if self.command_starts => {
                *cases += 1;
                self.command_starts = false;
            }
            b"esac" if *cases > 0 => *cases -= 1,
            word if self.command_starts && BEFORE_COMMANDS.contains(&word) => {}
            _ => return false,
        }
        self.keep(length);
        self.word_starts = true;
        true
    }

    fn comment(&mut self) {
        let rest = &self.text[self.at..];
        let line = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(rest.len());
        let mut end = line;
        while end > 0 && rest[end - 1] == b'\r' {
            end -= 1;
        }
        self.keep(end);
    }

    /// One step of a word outside quotes.
    fn part_of_word(&mut self) -> Option<()> {
        match self.text[self.at] {
            b'\\' => self.keep(2),
            b'\'' => self.until_quote(false)?,
            b'"' => {
                self.keep(1);
                self.within.push(Within::Double);
            }
            b'$' if self.next_is(b"$'") => {
                self.keep(1);
                self.until_quote(true)?;
            }
            b'$' | b'`' => self.expansion(),
            _ => self.keep(1),
        }
        Some(())
    }

    /// A text in single quotes. In `$'…'` a backslash escapes the next character.
    fn until_quote(&mut self, escapes: bool) -> Option<()> {
        let rest = &self.text[self.at..];
        let mut end = 1;
        while *rest.get(end)? != b'\'' {
            end += if escapes && rest[end] == b'\\' { 2 } else { 1 };
        }
        self.keep(end + 1);
        Some(())
    }

    /// `$` or a backquote, with the construct that it opens.
    fn expansion(&mut self) {
        if self.next_is(b"$((") {
            self.open_arithmetic(3);
        } else if self.next_is(b"$(") {
            self.keep(2);
            self.open_commands(Close::Parenthesis);
        } else if self.next_is(b"${") {
            self.keep(2);
            self.within.push(Within::Braces);
        } else if self.next_is(b"$[") {
            self.keep(2);
            let (open, round) = (1, false);
            self.within.push(Within::Arithmetic { open, round });
        } else if self.next_is(b"`") {
            self.keep(1);
            self.open_commands(Close::Backquote);
        } else {
            self.keep(1);
        }
    }

    fn open_arithmetic(&mut self, length: usize) {
        self.keep(length);
        let (open, round) = (2, true);
        self.within.push(Within::Arithmetic { open, round });
    }

    fn double(&mut self) -> Option<()> {
        match self.text[self.at] {
            b'\\' => self.keep(2),
            b'"' => {
                self.keep(1);
                self.within.pop();
                self.word_starts = false;
            }
            b'$' | b'`' => self.expansion(),
            _ => self.keep(1),
        }
        Some(())
    }

    fn braces(&mut self) -> Option<()> {
        match self.text[self.at] {
            b'}' => {
                self.keep(1);
                self.within.pop();
                self.word_starts = false;
            }
            b'\\' => self.keep(2),
            b'\'' => self.until_quote(false)?,
            b'"' => {
                self.keep(1);
                self.within.push(Within::Double);
            }
            b'$' | b'`' => self.expansion(),
            _ => self.keep(1),
        }
        Some(())
    }

    fn arithmetic(&mut self, open: u32, round: bool) -> Option<()> {
        let brackets = if round { (b'(', b')') } else { (b'[', b']') };
        let byte = self.text[self.at];
        let now = match byte {
            b'\\' => {
                self.keep(2);
                return Some(());
            }
            b'\'' => return self.until_quote(false),
            b'"' => {
                self.keep(1);
                self.within.push(Within::Double);
                return Some(());
            }
            b'$' | b'`' => {
                self.expansion();
                return Some(());
            }
            // A carriage return after a number would be a syntax error.
            b'\r' if self.returns() > 0 => {
                self.at += self.returns();
                return Some(());
            }
            byte if byte == brackets.0 => open + 1,
            byte if byte == brackets.1 => open - 1,
            _ => open,
        };
        self.keep(1);
        self.within.pop();
        if now > 0 {
            self.within.push(Within::Arithmetic { open: now, round });
        } else {
            self.word_starts = false;
        }
        Some(())
    }

    /// `<<WORD`: notes the delimiter of the document.
    fn announcement(&mut self) -> Option<()> {
        self.keep(2);
        let tabs = self.next_is(b"-");
        if tabs {
            self.keep(1);
        }
        while self.next_is(b" ") || self.next_is(b"\t") {
            self.keep(1);
        }
        let mut delimiter = Vec::new();
        while let Some(byte) = self.text.get(self.at).copied() {
            let start = self.at;
            match byte {
                b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')' => break,
                b'\r' if self.returns() > 0 => break,
                b'\\' => {
                    self.keep(2);
                    delimiter.extend_from_slice(&self.text[start + 1..self.at]);
                }
                b'\'' => {
                    self.until_quote(false)?;
                    delimiter.extend_from_slice(&self.text[start + 1..self.at - 1]);
                }
                b'"' => {
                    let rest = &self.text[start + 1..];
                    let length = rest.iter().position(|byte| *byte == b'"')?;
                    delimiter.extend_from_slice(&rest[..length]);
                    self.keep(length + 2);
                }
                _ => {
                    delimiter.push(byte);
                    self.keep(1);
                }
            }
        }
        self.announced.push(Announced {
            delimiter,
            tabs,
            returned: false,
        });
        Some(())
    }

    /// The documents that the line before announced. They stay unchanged, except for the delimiter's lines.
    fn documents(&mut self) {
        for document in std::mem::take(&mut self.announced) {
            let rest = &self.text[self.at..];
            let (length, end) = document.find(rest).unwrap_or((rest.len(), 0));
            self.keep(length);
            // The delimiter's line loses its carriage returns.
            self.keep(end);
            self.at += self.returns();
            if self.next_is(b"\n") {
                self.keep(1);
            }
        }
    }
}

impl Announced {
    /// The length of the document, and of the delimiter's line without its line end. A delimiter with carriage returns
    /// counts if the announcing line had one, too. Otherwise it counts only if there is no other delimiter, since by the
    /// shell's rules such a line is a part of the document.
    fn find(&self, text: &[u8]) -> Option<(usize, usize)> {
        let mut lenient = None;
        let mut start = 0;
        for line in text.split(|byte| *byte == b'\n') {
            let tabs = match self.tabs {
                true => line.iter().take_while(|byte| **byte == b'\t').count(),
                false => 0,
            };
            if line[tabs..] == self.delimiter {
                return lenient
                    .filter(|_| self.returned)
                    .or(Some((start, line.len())));
            }
            let returns = line.iter().rev().take_while(|byte| **byte == b'\r').count();
            let bare = &line[..line.len() - returns];
            if lenient.is_none() && bare.get(tabs..) == Some(&self.delimiter[..]) {
                lenient = Some((start, bare.len()));
            }
            start += line.len() + 1;
        }
        lenient
    }
}

#[cfg(test)]
mod tests {
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
}
