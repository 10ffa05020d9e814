//! Shell scripts with Windows line ends.
//!
//! To a shell, a carriage return before a line feed belongs to the last word: `echo a\r\n` prints it, and `then\r\n` is no
//! keyword. So carriage returns that end a line of commands are removed. Those in texts (quotes and here-documents) are
//! kept. The lexer therefore knows where quotes, here-documents, comments, arithmetic and nested constructs begin and
//! end. A script in which one of these is not closed stays unchanged.

mod here_document;

use std::borrow::Cow;

use here_document::HereDocument;

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

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    out: Vec<u8>,
    /// The open constructs, the innermost last.
    within: Vec<Within>,
    announced: Vec<HereDocument>,
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
        self.announced.push(HereDocument {
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

#[cfg(test)]
mod tests;
