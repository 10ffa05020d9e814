//! What a model is told before the conversation.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::text::middle_cut;

/// The file of a project that says how to work on it.
const FILE: &str = "AGENTS.md";

/// The most of it that is read, in bytes.
const LONGEST: usize = 64 << 10;

const ROLE: &str = "\
You are Snowglobe's agent: you work for a person on the project in /workspace, through tools that act inside a sandbox. Inside the \
sandbox you need no permission for anything. Do the whole task: look before you change, run what you wrote, and say what you saw, \
not what you expect. Use `plan` for a task of several steps. When you are done, answer in a few plain sentences: what changed, how \
it was checked, what is left. The person sees your calls and their results, so do not repeat them. If you need a decision that only \
the person can make, ask for it and stop.";

/// The whole text. It stays the same during a session as far as possible, for the provider's cache.
pub(super) fn system(servers: &str, project: &str) -> String {
    format!("{ROLE}\n\n{servers}{project}")
}

/// What the project's own files say, in its root and down to the directory that the person is in.
pub(super) fn of_project(project: &Path, subdirectory: &Path) -> String {
    let mut text = String::new();
    if !subdirectory.as_os_str().is_empty() {
        let place = subdirectory.display();
        text = format!("\n\nThe person is in /workspace/{place}.");
    }
    let mut dirs: Vec<&Path> = subdirectory.ancestors().collect();
    dirs.reverse();
    for place in dirs.into_iter().map(|dir| dir.join(FILE)) {
        if let Some(file) = read(&project.join(&place)) {
            let place = place.display();
            text.push_str(&format!("\n\nThe project's {place} says:\n{file}"));
        }
    }
    text
}

/// The text of a regular file. The guest can write it: it may be a link to a file of the host's, or a pipe.
fn read(path: &Path) -> Option<String> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).ok()?;
    let mut options = std::fs::File::options();
    let file = options.read(true).custom_flags(flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(middle_cut(&text, LONGEST).into_owned())
}
