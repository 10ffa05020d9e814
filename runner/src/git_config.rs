//! Reads a configuration file as git does.
//!
//! Libraries for this are made to be lenient, to keep comments and to change values, and they bring twenty crates into the
//! process that the guest attacks. The rules need one property: every setting that git reads is seen here. So this is git's
//! own grammar, character by character, and what git refuses or what other programs read in another way is an error.

/// The largest file that is read, in bytes.
pub const LARGEST: usize = 1 << 20;

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The section, in lower case.
    pub section: String,
    /// The subsection, as written; empty if there is none.
    pub subsection: Vec<u8>,
    /// The name, in lower case.
    pub name: String,
    /// The value; a setting without `=` has none, which means true.
    pub value: Option<Vec<u8>>,
}

impl Setting {
    /// The full name, for a person.
    pub fn key(&self) -> String {
        match self.subsection.is_empty() {
            true => format!("{}.{}", self.section, self.name),
            false => {
                let subsection = String::from_utf8_lossy(&self.subsection);
                format!("{}.{subsection}.{}", self.section, self.name)
            }
        }
    }
}

/// Why a file can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsure {
    /// It is too large.
    #[error("the file is larger than {LARGEST} bytes")]
    Large,
    /// Programs read this character in different ways.
    #[error("line {0} has a control character")]
    Control(usize),
    /// It is none of git's.
    #[error("line {0} is not git's syntax")]
    Syntax(usize),
}

/// The settings in `text`, in order.
pub fn parse(text: &[u8]) -> Result<Vec<Setting>, Unsure> {
    if text.len() > LARGEST {
        return Err(Unsure::Large);
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut reader = Reader {
        text,
        at: 0,
        line: 1,
    };
    if let Some(at) = control(text) {
        let line = 1 + text[..at].iter().filter(|byte| **byte == b'\n').count();
        return Err(Unsure::Control(line));
    }
    reader.settings().ok_or(Unsure::Syntax(reader.line))
}

/// The first NUL, or carriage return that ends no line.
fn control(text: &[u8]) -> Option<usize> {
    text.iter().enumerate().position(|(at, byte)| {
        *byte == 0 || (*byte == b'\r' && text.get(at + 1).is_some_and(|next| *next != b'\n'))
    })
}

/// A section's name and subsection.
#[derive(Debug, Clone, Default)]
struct Section {
    name: Vec<u8>,
    subsection: Vec<u8>,
}

/// The characters of the file. Each end of line, and the end of the file, is a `\n`.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

const fn is_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

impl Reader<'_> {
    /// The next character; beyond the end there are only ends of lines.
    fn next(&mut self) -> u8 {
        let mut byte = self.text.get(self.at).copied();
        if byte == Some(b'\r') && self.text.get(self.at + 1) == Some(&b'\n') {
            self.at += 1;
            byte = Some(b'\n');
        }
        self.at += 1;
        let byte = byte.unwrap_or(b'\n');
        self.line += usize::from(byte == b'\n');
        byte
    }

    fn ended(&self) -> bool {
        self.at > self.text.len()
    }

    fn settings(&mut self) -> Option<Vec<Setting>> {
        let mut settings = Vec::new();
        let mut section = None;
        let mut comment = false;
        loop {
            let byte = self.next();
            match byte {
                b'\n' if self.ended() => return Some(settings),
                b'\n' => comment = false,
                _ if comment || is_space(byte) => {}
                b'#' | b';' => comment = true,
                b'[' => section = Some(self.section()?),
                _ if byte.is_ascii_alphabetic() => {
                    let (name, value) = self.setting(byte)?;
                    // Git ignores a setting before the first section; other programs may not.
                    let section: &Section = section.as_ref()?;
                    settings.push(Setting {
                        section: String::from_utf8(section.name.clone()).ok()?,
                        subsection: section.subsection.clone(),
                        name,
                        value,
                    });
                }
                _ => return None,
            }
        }
    }

    /// `name]`, `name.subsection]` or `name "subsection"]`.
    fn section(&mut self) -> Option<Section> {
        let mut name = Vec::new();
        loop {
            let byte = self.next();
            match byte {
                _ if self.ended() => return None,
                b']' => {
                    let dot = name.iter().position(|byte| *byte == b'.');
                    let subsection = dot.map_or(Vec::new(), |at| name[at + 1..].to_vec());
                    name.truncate(dot.unwrap_or(name.len()));
                    return Some(Section { name, subsection });
                }
                _ if is_space(byte) => return self.subsection(name, byte),
                _ if is_key(byte) || byte == b'.' => name.push(byte.to_ascii_lowercase()),
                _ => return None,
            }
        }
    }

    fn subsection(&mut self, mut name: Vec<u8>, mut byte: u8) -> Option<Section> {
        while is_space(byte) {
            if byte == b'\n' {
                return None;
            }
            byte = self.next();
        }
        if byte != b'"' {
            return None;
        }
        let mut subsection = Vec::new();
        if let Some(dot) = name.iter().position(|byte| *byte == b'.') {
            subsection = [&name[dot + 1..], &b"."[..]].concat();
            name.truncate(dot);
        }
        loop {
            match self.next() {
                b'\n' => return None,
                b'"' => break,
                b'\\' => match self.next() {
                    b'\n' => return None,
                    escaped => subsection.push(escaped),
                },
                byte => subsection.push(byte),
            }
        }
        (self.next() == b']').then_some(Section { name, subsection })
    }

    fn setting(&mut self, first: u8) -> Option<(String, Option<Vec<u8>>)> {
        let mut name = vec![first.to_ascii_lowercase()];
        let mut byte = self.next();
        while is_key(byte) {
            name.push(byte.to_ascii_lowercase());
            byte = self.next();
        }
        while matches!(byte, b' ' | b'\t') {
            byte = self.next();
        }
        let value = match byte {
            b'\n' => None,
            b'=' => Some(self.value()?),
            _ => return None,
        };
        Some((String::from_utf8(name).ok()?, value))
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        let (mut value, mut end) = (Vec::new(), 0);
        let (mut quoted, mut comment) = (false, false);
        loop {
            let byte = self.next();
            match byte {
                b'\n' if quoted => return None,
                b'\n' => {
                    value.truncate(end);
                    return Some(value);
                }
                _ if comment => continue,
                _ if is_space(byte) && !quoted => {
                    if !value.is_empty() {
                        value.push(byte);
                    }
                    continue;
                }
                b'#' | b';' if !quoted => {
                    comment = true;
                    continue;
                }
                b'\\' => match self.next() {
                    // At the end of the file, git versions differ.
                    b'\n' if self.ended() => return None,
                    b'\n' => continue,
                    b't' => value.push(b'\t'),
                    b'b' => value.push(8),
                    b'n' => value.push(b'\n'),
                    escaped @ (b'\\' | b'"') => value.push(escaped),
                    _ => return None,
                },
                b'"' => quoted = !quoted,
                _ => value.push(byte),
            }
            end = value.len();
        }
    }
}
