//! Where a key comes from: that of a model provider, a secret of the network. A key is read when it is needed, and shown
//! nowhere.

use std::fmt::Display;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use crate::shown;

/// The longest key, in bytes.
const MAX_KEY: u64 = 16 << 10;
/// The most that is shown of what a command says, in characters.
const SHOWN: usize = 500;
/// How long a command may take that prints a key. It may ask the user for a password first.
const DEADLINE: Duration = Duration::from_secs(60);

/// The environment of this process, or that of a test.
pub(crate) type Environment = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Where a key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// None is needed.
    None,
    /// What an environment variable holds.
    Variable(String),
    /// What a program prints.
    Command(Vec<String>),
    /// What a file holds.
    File(PathBuf),
}

impl KeySource {
    /// Where it is, in words.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::None => "nowhere".to_owned(),
            Self::Variable(name) => name.clone(),
            // The arguments may hold what is not for others.
            Self::Command(words) => {
                format!("the command `{}`", words.first().map_or("", String::as_str))
            }
            Self::File(path) => format!("the file {}", path.display()),
        }
    }

    /// Whether there seems to be a key: a command is not run for that, and a file not opened.
    pub(crate) fn seems_there(&self, environment: &Environment) -> bool {
        match self {
            Self::None | Self::Command(_) => true,
            Self::Variable(name) => set(environment, name).is_some(),
            Self::File(path) => path.exists(),
        }
    }

    /// The key; none if none is needed.
    pub(crate) async fn read(&self, environment: &Environment) -> Result<Option<String>, String> {
        let place = self.place();
        let text = match self {
            Self::None => return Ok(None),
            Self::Variable(name) => {
                set(environment, name).ok_or_else(|| format!("there is no key; set {place}"))?
            }
            Self::Command(words) => run(words).await?,
            Self::File(path) => read_private(path)?,
        };
        let key = text.trim();
        let wrong = match key {
            "" => "it is empty",
            _ if text.len() as u64 > MAX_KEY => "it is longer than a key",
            _ if !key.chars().all(|c| c.is_ascii_graphic()) => {
                "it holds characters that no key has"
            }
            key => return Ok(Some(key.to_owned())),
        };
        Err(format!("the key from {place} can't be used: {wrong}"))
    }
}

/// The value of a variable that is set and not empty.
pub(crate) fn set(environment: &Environment, name: &str) -> Option<String> {
    environment(name).filter(|value| !value.trim().is_empty())
}

/// What a file holds that is this user's alone.
fn read_private(path: &Path) -> Result<String, String> {
    let failed =
        |why: &dyn Display| format!("the key's file {} can't be read: {why}", path.display());
    let file = std::fs::File::options()
        .read(true)
        // A pipe without a writer would be waited for.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|error| failed(&error))?;
    let meta = file.metadata().map_err(|error| failed(&error))?;
    if !meta.is_file() {
        return Err(failed(&"it is no file"));
    }
    if meta.mode() & 0o077 != 0 {
        let mend = format!("others can read it; run `chmod 600 {}`", path.display());
        return Err(failed(&mend));
    }
    let mut text = String::new();
    let read = file.take(MAX_KEY + 1).read_to_string(&mut text);
    read.map_err(|error| failed(&error))?;
    Ok(text)
}

/// What a program prints.
async fn run(words: &[String]) -> Result<String, String> {
    let (program, arguments) = words.split_first().ok_or("the key's command is empty")?;
    let failed = |why: &dyn Display| format!("the key's command `{program}` failed: {why}");
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&error))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = async { tokio::join!(child.wait(), bounded(out), bounded(err)) };
    let (status, printed, complaint) = tokio::time::timeout(DEADLINE, ended)
        .await
        .map_err(|_| failed(&format!("it took longer than {} s", DEADLINE.as_secs())))?;
    let status = status.map_err(|error| failed(&error))?;
    match status.success() {
        true => Ok(printed),
        false => Err(failed(&format!("{status}; {}", line(&complaint)))),
    }
}

/// The beginning of what a program says, on one line.
fn line(said: &str) -> String {
    let words: Vec<&str> = said.split_whitespace().collect();
    let line = words.join(" ");
    let line = shown::line(&line);
    match line.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.into_owned(),
    }
}

/// What comes from a stream, at most a little more than a key has. The rest is read and dropped, so that the program ends.
async fn bounded(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let mut first = (&mut stream).take(MAX_KEY + 1);
        // What was read counts, also before an error.
        first.read_to_end(&mut bytes).await.ok();
        let mut nowhere = tokio::io::sink();
        tokio::io::copy(&mut stream, &mut nowhere).await.ok();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    async fn read(source: KeySource) -> Result<Option<String>, String> {
        source.read(&nothing).await
    }

    fn command(line: &str) -> KeySource {
        KeySource::Command(vec!["sh".into(), "-c".into(), line.into()])
    }

    #[tokio::test]
    async fn a_key_comes_from_a_variable() {
        let environment = |name: &str| match name {
            "EMPTY" => Some(" ".to_owned()),
            "SECOND" => Some("abc\n".to_owned()),
            _ => None,
        };
        let variable = |name: &str| KeySource::Variable(name.to_owned());
        let key = variable("SECOND").read(&environment).await;
        assert_eq!(key.unwrap().unwrap(), "abc");
        let none = variable("EMPTY").read(&environment).await.unwrap_err();
        assert_eq!(none, "there is no key; set EMPTY");
        assert_eq!(read(KeySource::None).await, Ok(None));
    }

    #[tokio::test]
    async fn a_key_comes_from_a_command() {
        let key = read(command("printf 'a-key\\n'")).await.unwrap().unwrap();
        assert_eq!(key, "a-key");
        for (line, why) in [
            ("echo wrong password >&2; exit 3", "wrong password"),
            ("true", "it is empty"),
            ("printf 'a b'", "no key has"),
            ("head -c 100000 /dev/zero", "longer than a key"),
        ] {
            let error = read(command(line)).await.unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
        let missing = KeySource::Command(vec!["/no/such/program".into()]);
        assert!(
            read(missing)
                .await
                .unwrap_err()
                .contains("/no/such/program")
        );
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "a-key\n").unwrap();
        let set = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        set(0o640);
        let error = read(KeySource::File(path.clone())).await.unwrap_err();
        assert!(
            error.contains("chmod 600") && !error.contains("a-key"),
            "{error}"
        );
        set(0o600);
        let key = read(KeySource::File(path.clone())).await.unwrap().unwrap();
        assert_eq!(key, "a-key");
        for bad in [dir.path().to_owned(), dir.path().join("none")] {
            assert!(read(KeySource::File(bad)).await.is_err());
        }
    }
}
