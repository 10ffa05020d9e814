//! Here-documents, and the lines that end them.

/// A here-document that begins after the current line.
#[derive(Debug)]
pub(super) struct HereDocument {
    pub(super) delimiter: Vec<u8>,
    /// Whether tabs before the delimiter are ignored (`<<-`).
    pub(super) tabs: bool,
    /// Whether the line that announced it has a Windows line end.
    pub(super) returned: bool,
}

impl HereDocument {
    /// The length of the document, and of the delimiter's line without its line end. A delimiter with carriage returns
    /// counts if the announcing line had one, too. Otherwise it counts only if there is no other delimiter, since by the
    /// shell's rules such a line is a part of the document.
    pub(super) fn find(&self, text: &[u8]) -> Option<(usize, usize)> {
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
