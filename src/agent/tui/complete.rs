//! What the word at the cursor may become: a file after `@`, a command after `/`.

use std::ops::Range;

/// Keys and commands, as a person reads them; the commands are its lines that begin with `/`.
pub(super) const HELP: &str = include_str!("help.txt");

/// How many paths are offered.
const MOST: usize = 200;

/// What is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Paths,
    Commands,
}

/// The word that is completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) kind: Kind,
    /// Where it is in the text, with its sign.
    pub(super) range: Range<usize>,
    /// It without its sign.
    pub(super) text: String,
}

/// What is offered for a word.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) word: Word,
    /// What it may become, with a text about that.
    pub(super) items: Vec<(String, String)>,
    pub(super) at: usize,
}

/// The names of all commands with the rest of their lines, in the order in which they are listed.
pub(super) fn commands() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = HELP.lines().filter_map(|line| line.strip_prefix('/'));
    lines.filter_map(|line| line.split_once(' '))
}

/// The word at the cursor, if it can be completed.
pub(super) fn word(text: &str, cursor: usize) -> Option<Word> {
    let (before, after) = text.split_at(cursor);
    let found = |kind, start: usize| Word {
        kind,
        range: start..cursor,
        text: before[start + 1..].to_owned(),
    };
    if let Some(name) = before.strip_prefix('/')
        && name.chars().all(|c| c.is_ascii_lowercase())
        && after.chars().next().is_none_or(char::is_whitespace)
    {
        return Some(found(Kind::Commands, 0));
    }
    let last = before.split(char::is_whitespace).next_back()?;
    let is_path = last.starts_with('@') && last.len() < 1_000;
    is_path.then(|| found(Kind::Paths, cursor - last.len()))
}

impl Completion {
    fn of(word: Word, items: impl Iterator<Item = (String, String)>) -> Option<Self> {
        let items: Vec<_> = items.collect();
        (!items.is_empty()).then_some(Self { word, items, at: 0 })
    }

    /// The commands that begin with the word, if there are any.
    pub(super) fn commands(word: Word) -> Option<Self> {
        let begin = word.text.clone();
        let fits = commands().filter(|(name, _)| name.starts_with(&begin));
        let items = fits.map(|(name, about)| {
            (
                format!("/{name}"),
                about.split_whitespace().collect::<Vec<_>>().join(" "),
            )
        });
        Self::of(word, items)
    }

    pub(super) fn paths(word: Word, found: Vec<String>) -> Option<Self> {
        let paths = found.into_iter().take(MOST);
        Self::of(word, paths.map(|path| (format!("@{path}"), String::new())))
    }

    /// The chosen text. A directory may be followed by more of a path, all else by a space.
    pub(super) fn chosen(&self) -> String {
        let chosen = self.items.get(self.at).map_or("", |(text, _)| text);
        match chosen.ends_with('/') {
            true => chosen.to_owned(),
            false => format!("{chosen} "),
        }
    }

    pub(super) fn step(&mut self, down: bool) {
        let count = self.items.len().max(1);
        let by = if down { 1 } else { count - 1 };
        self.at = (self.at + by) % count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_at_the_cursor() {
        let found = |text: &str| word(text, text.len()).map(|word| (word.kind, word.text));
        assert_eq!(found("/mo"), Some((Kind::Commands, "mo".to_owned())));
        assert_eq!(found("/model x"), None);
        assert_eq!(found("/workspace/a"), None);
        assert_eq!(
            found("see @src/ma"),
            Some((Kind::Paths, "src/ma".to_owned()))
        );
        assert_eq!(found("日本\u{3000}@é"), Some((Kind::Paths, "é".to_owned())));
        assert_eq!(found("me@home"), None);
        assert_eq!(found(""), None);
        assert_eq!(word("@ab cd", 2).unwrap().range, 0..2);
    }

    #[test]
    fn commands_and_paths_are_offered() {
        let mut all = Completion::commands(word("/", 1).unwrap()).unwrap();
        assert_eq!(all.items.len(), commands().count());
        all.step(false);
        assert_eq!(all.chosen(), "/quit ");
        assert!(Completion::commands(word("/zz", 3).unwrap()).is_none());
        let found = vec!["src/".to_owned()];
        let paths = Completion::paths(word("@s", 2).unwrap(), found).unwrap();
        assert_eq!(paths.chosen(), "@src/");
    }
}
