//! Why a text could not be replaced.

/// Why a text could not be replaced: a fragment that follows the path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unclear {
    #[error("old_string is empty; to make a file or replace all of it use write")]
    Empty,
    #[error("old_string and new_string are the same")]
    Same,
    #[error("old_string is not in it{0}; read the file and copy the text exactly")]
    Absent(String),
    #[error(
        "old_string is in it {count} times, at lines {lines}; add lines around it to name one, or set replace_all"
    )]
    Ambiguous { count: usize, lines: String },
    #[error(
        "old_string is in it more than once, overlapping itself from line {0} on; add lines around it to name one place"
    )]
    Overlapping(usize),
    #[error(
        "it is in {encoding}, which has no character {char:?} (U+{code:04X}) of new_string; write that \
         otherwise, or convert the file first with exec: iconv -f {label} -t UTF-8"
    )]
    Lacks {
        char: char,
        code: u32,
        encoding: String,
        label: &'static str,
    },
    #[error(
        "new_string has U+FFFD where the file has bytes that are no text in {0}, and they can't be written; \
         change the lines before and after them only, or use exec"
    )]
    Damaged(String),
    #[error(
        "the change can't be made without changing the bytes around it; use exec with a script"
    )]
    Entangled,
}
