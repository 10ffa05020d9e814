//! Globs that select the files of a search, in all usual forms.
//!
//! A glob without a slash names files and directories anywhere below the searched directory. A glob with a slash is a
//! path: below that directory, below the workspace, below a home (`~/`), or absolute. A directory stands for all files
//! below it. One text may hold several globs, separated by commas or line breaks; the last one that matches decides.

use std::path::{Path, PathBuf};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// Resolves the first part of a path, if it is a home like `~` or `~name`.
pub(super) type Home<'a> = dyn Fn(&str) -> Option<PathBuf> + 'a;

/// The globs of one search.
pub(super) struct Globs {
    root: PathBuf,
    globs: Vec<ParsedGlob>,
}

/// One glob.
struct ParsedGlob {
    text: String,
    exclude: bool,
    /// Whether it is only a further interpretation of a text; if it matches nothing, that is not reported.
    guess: bool,
    /// For paths relative to the searched directory.
    below: GlobSet,
    /// For absolute paths.
    absolute: GlobSet,
}

/// Whether a file is searched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    In,
    Out,
}

impl Globs {
    /// Parses the globs of a search below `root`.
    pub(super) fn new(
        root: &Path,
        workspace: &Path,
        home: &Home,
        texts: &[String],
    ) -> Result<Self, String> {
        let mut globs = Vec::new();
        for text in texts {
            let parts = split(text);
            // A file's name may contain a comma.
            if parts.len() > 1 {
                globs.push(ParsedGlob::new(root, workspace, home, text.trim(), true)?);
            }
            for part in parts {
                globs.push(ParsedGlob::new(root, workspace, home, part, false)?);
            }
        }
        Ok(Self {
            root: root.to_owned(),
            globs,
        })
    }

    pub(super) fn choose(&self, file: &Path) -> Choice {
        match self.decides(file) {
            Some(at) if self.globs[at].exclude => Choice::Out,
            Some(_) => Choice::In,
            None if self.globs.iter().all(|glob| glob.exclude) => Choice::In,
            None => Choice::Out,
        }
    }

    /// Whether a directory is excluded with all below it.
    pub(super) fn prunes(&self, dir: &Path) -> bool {
        self.decides(dir).is_some_and(|at| self.globs[at].exclude)
    }

    /// Counts a file for each glob that matches it. Returns whether a glob of `only` matches, or true if `only` is empty.
    pub(super) fn count(&self, file: &Path, hits: &mut [u64], only: Option<&[usize]>) -> bool {
        let below = file.strip_prefix(&self.root).unwrap_or(file);
        let mut wanted = only.is_none_or(<[usize]>::is_empty);
        for (at, glob) in self.globs.iter().enumerate() {
            let counts = only.is_none_or(|only| only.contains(&at));
            // Whether a glob has a match is enough to know.
            if counts && (hits[at] == 0 || !wanted) && glob.names(file, below) {
                hits[at] += 1;
                wanted = true;
            }
        }
        wanted
    }

    fn decides(&self, path: &Path) -> Option<usize> {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        self.globs.iter().rposition(|glob| glob.names(path, below))
    }

    pub(super) fn len(&self) -> usize {
        self.globs.len()
    }

    /// The text of a glob that names files.
    pub(super) fn text(&self, at: usize) -> Option<&str> {
        let glob = &self.globs[at];
        (!glob.exclude && !glob.guess).then_some(glob.text.as_str())
    }
}

impl ParsedGlob {
    fn names(&self, path: &Path, below: &Path) -> bool {
        self.below.is_match(below) || self.absolute.is_match(path)
    }

    fn new(
        root: &Path,
        workspace: &Path,
        home: &Home,
        text: &str,
        guess: bool,
    ) -> Result<Self, String> {
        let (exclude, pattern) = match text.strip_prefix('!') {
            Some(pattern) => (true, pattern.trim_start()),
            None => (false, text),
        };
        let at_home = below_home(home, pattern);
        let pattern = at_home.as_deref().unwrap_or(pattern);
        let directory = pattern.ends_with('/');
        let pattern = pattern.trim_end_matches('/');
        let (mut below, mut absolute) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        let add = |set: &mut GlobSetBuilder, pattern: &str| -> Result<(), String> {
            if !directory || exclude {
                set.add(glob(text, pattern)?);
            }
            // Excluding all files in a directory excludes the directory.
            if let Some(directory) = pattern.strip_suffix("/**").filter(|_| exclude) {
                set.add(glob(text, directory)?);
            }
            set.add(glob(text, &format!("{pattern}/**"))?);
            Ok(())
        };
        if matches!(pattern, "" | "." | "**") {
            below.add(glob(text, "**")?);
        } else if !pattern.contains('/') {
            add(&mut below, &format!("**/{pattern}"))?;
        } else {
            for base in [root, workspace] {
                add(&mut absolute, &below_base(base, pattern))?;
            }
            if pattern.starts_with('/') {
                add(&mut absolute, &below_base(Path::new("/"), pattern))?;
            }
        }
        let built = |set: GlobSetBuilder| set.build().map_err(|e| wrong(text, &e));
        Ok(Self {
            text: text.to_owned(),
            exclude,
            guess,
            below: built(below)?,
            absolute: built(absolute)?,
        })
    }
}

fn glob(text: &str, pattern: &str) -> Result<Glob, String> {
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .empty_alternates(true)
        .build()
        .map_err(|e| wrong(text, &e))
}

fn wrong(text: &str, error: &globset::Error) -> String {
    format!(
        "use the glob {text:?}: {}; write it as in \"src/**/*.rs\" or \"*.{{js,ts}}\", and a bracket or brace that is \
         part of a name after a backslash",
        error.kind()
    )
}

/// The absolute pattern, if the pattern begins with a home.
fn below_home(home: &Home, pattern: &str) -> Option<String> {
    let (first, rest) = pattern.split_once('/')?;
    let home = home(first)?;
    Some(format!(
        "{}/{rest}",
        globset::escape(&home.to_string_lossy())
    ))
}

/// The absolute pattern below a directory, without `.` and `..`.
fn below_base(base: &Path, pattern: &str) -> String {
    let base = globset::escape(&base.to_string_lossy());
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The globs in a text, separated by commas and line breaks outside braces and brackets.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut braces, mut bracket, mut escaped) = (0, 0_usize, false, false);
    for (at, char) in text.char_indices() {
        match char {
            _ if escaped => {
                escaped = false;
                continue;
            }
            '\\' => escaped = true,
            '[' => bracket = true,
            ']' => bracket = false,
            '{' => braces += 1,
            '}' => braces = braces.saturating_sub(1),
            ',' if braces == 0 && !bracket => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            '\n' => {
                parts.push(&text[start..at]);
                (start, braces, bracket) = (at + 1, 0, false);
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain_mut(|part| {
        *part = part.trim();
        !part.is_empty()
    });
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(root: &str, glob: &str) -> Result<Globs, String> {
        let home = |first: &str| match first {
            "~" => Some("/home/[me]".into()),
            _ => None,
        };
        Globs::new(Path::new(root), Path::new("/w"), &home, &[glob.to_owned()])
    }

    fn chosen(root: &str, glob: &str, file: &str) -> bool {
        let globs = globs(root, glob);
        globs.unwrap().choose(Path::new(file)) != Choice::Out
    }

    #[test]
    fn every_usual_form_names_its_files() {
        for (root, glob, file) in [
            ("/w", "*.rs", "/w/src/a.rs"),
            ("/w", "/w/src/**/*.rs", "/w/src/a.rs"),
            ("/w", "/w/src/**/*.rs", "/w/src/x/y/a.rs"),
            ("/w/src", "/w/src/**/*.rs", "/w/src/x/a.rs"),
            ("/w", "./src/*.rs", "/w/src/a.rs"),
            ("/w", "././src//*.rs", "/w/src/a.rs"),
            ("/w/src", "src/*.rs", "/w/src/a.rs"),
            ("/w/src", "./*.rs", "/w/src/a.rs"),
            ("/w/src", "../src/*.rs", "/w/src/a.rs"),
            ("/w", "/src/*.rs", "/w/src/a.rs"),
            ("/w", "*.rs,*.toml", "/w/Cargo.toml"),
            ("/w", "*.rs, *.toml", "/w/Cargo.toml"),
            ("/w", "*.{rs,toml}", "/w/Cargo.toml"),
            ("/w", "{a,b c}.rs", "/w/src/b c.rs"),
            ("/w", "my file*.txt", "/w/my file 1.txt"),
            ("/w", "a,b.txt", "/w/a,b.txt"),
            ("/w", "[a,b].rs", "/w/b.rs"),
            ("/w", ".github/**", "/w/.github/workflows/ci.yml"),
            ("/w", "**/*.rs", "/w/a.rs"),
            ("/w", "**", "/w/a/b"),
            ("/w", ".", "/w/a/b"),
            ("/w", "src", "/w/src/x/a.rs"),
            ("/w", "src/", "/w/src/x/a.rs"),
            ("/w", "x", "/w/src/x/a.rs"),
            ("/w", "src/x", "/w/src/x/a.rs"),
            ("/w", "!tests/**", "/w/src/a.rs"),
            ("/w", "*.rs,!tests/**", "/w/src/a.rs"),
            ("/w", "!*.rs,keep.rs", "/w/keep.rs"),
            ("/home", "~/x/*.rs", "/home/[me]/x/a.rs"),
            ("/home", "!~/*.rs,*.rs", "/home/[me]/x/a.rs"),
            ("/w", "~x/*.rs", "/w/~x/a.rs"),
            ("/tmp/[x]", "src/*.rs", "/tmp/[x]/src/a.rs"),
        ] {
            assert!(chosen(root, glob, file), "{glob} below {root}: {file}");
        }
        for (root, glob, file) in [
            ("/w", "*.rs", "/w/a.toml"),
            ("/w", "src/*.rs", "/w/src/x/a.rs"),
            ("/w", "src/", "/w/src"),
            ("/w", "w", "/w/a.rs"),
            ("/w", "/w/src/*.rs", "/w/tests/a.rs"),
            ("/w", "!tests/**", "/w/tests/a.rs"),
            ("/w", "!./tests", "/w/tests/a/b.rs"),
            ("/w", "*.rs,!tests/**", "/w/tests/a.rs"),
            ("/w", "!*.rs", "/w/a.rs"),
        ] {
            assert!(!chosen(root, glob, file), "{glob} below {root}: {file}");
        }
    }

    #[test]
    fn what_is_left_out_is_not_walked() {
        for glob in [
            "!tests",
            "!tests/",
            "!tests/**",
            "!/w/tests/**",
            "!**/tests/**",
        ] {
            let globs = globs("/w", glob).unwrap();
            assert!(globs.prunes(Path::new("/w/tests")), "{glob}");
            assert!(!globs.prunes(Path::new("/w/src")), "{glob}");
        }
    }

    #[test]
    fn a_wrong_glob_is_named() {
        for glob in ["*.{rs", "[a", "x,{a"] {
            let Err(wrong) = globs("/w", glob) else {
                panic!("{glob}");
            };
            assert!(wrong.contains("use the glob \""), "{wrong}");
        }
    }
}
