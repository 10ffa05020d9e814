//! The repository of a workspace whose `.git` is a file: a linked worktree, or a submodule.
//!
//! The file names a directory outside of the workspace. A guest of an earlier session, or whoever made the project, may have
//! written any name there. So the directory is shared only if it leads back, as git itself checks: its own files, which no
//! guest may write, name this very workspace. It is opened once, without following links.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use snowglobe_init::wire::share::WORKSPACE;
use snowglobe_runner::git_config::{self, Setting};

use super::dir::SharedDir;
use super::git_file::{
    LONGEST, gitdir, inside_fault, path_by_names, place_fault, without_line_end,
};
use super::small_file::{self, Small};

/// The file in a worktree that leads to the repository.
const DOT_GIT: &str = ".git";

/// How many directories a message names.
const NAMED: usize = 3;

/// Where the guest has a repository that lies outside of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// At its path on the host, beside the workspace.
    Beside,
    /// In the workspace, as a directory `.git`: in a copy.
    Inside,
}

/// Where the repository of a workspace is.
#[derive(Debug, Clone, PartialEq)]
pub enum Git {
    /// In the workspace; or there is none.
    Inside,
    /// Outside, and shared with the guest.
    Shared(Repository),
    /// Outside, and not shared: git does not work in the guest.
    Apart(Apart),
}

/// A repository whose directory is shared beside its worktree.
#[derive(Debug, Clone, PartialEq)]
pub struct Repository {
    /// The directory that all worktrees share.
    pub dir: SharedDir,
    /// The name of the workspace's own directory in `worktrees`; none: it is the main worktree.
    pub worktree: Option<String>,
    /// Where in the workspace its hooks are, if `core.hooksPath` says so.
    pub hooks: Vec<String>,
    /// Directories outside from which it borrows objects.
    pub borrows: Vec<String>,
}

/// Why a repository is not shared, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "git does not work in the sandbox, since the repository of this directory is elsewhere and is not shared: {0}"
)]
pub struct Apart(String);

type Found<T> = Result<T, Apart>;

fn apart<T>(why: impl Into<String>) -> Found<T> {
    Err(Apart(why.into()))
}

/// What a git directory is to the workspace.
struct Lead {
    /// The git directory of the worktree.
    git: PathBuf,
    /// The directory that all worktrees share.
    common: PathBuf,
    worktree: Option<String>,
}

impl Git {
    /// Looks where the repository of a workspace is. `check` says why a directory must not be shared.
    pub fn find(
        workspace: &SharedDir,
        site: Site,
        check: &dyn Fn(&Path) -> Option<String>,
    ) -> Self {
        match find(workspace, site, check) {
            Ok(None) => Self::Inside,
            Ok(Some(repository)) => Self::Shared(repository),
            Err(apart) => Self::Apart(apart),
        }
    }
}

fn find(
    workspace: &SharedDir,
    seen: Site,
    check: &dyn Fn(&Path) -> Option<String>,
) -> Found<Option<Repository>> {
    let Some(text) = dot_git(workspace)? else {
        return Ok(None);
    };
    let lead = lead(workspace.path(), &text)?;
    if lead.git.starts_with(workspace.path()) {
        return Ok(None);
    }
    let place = lead.common.display();
    let fault = match seen {
        Site::Beside => place_fault(&lead.common, workspace.path()),
        Site::Inside => inside_fault(&lead.common, lead.worktree.is_some(), workspace.path()),
    };
    if let Some(why) = fault.or_else(|| check(&lead.common)) {
        return apart(format!("{place} can't be shared: {why}"));
    }
    let dir = SharedDir::open(&lead.common).or_else(|error| {
        apart(format!(
            "{place} can't be opened without following a link ({error}); `git worktree repair` in the repository may help"
        ))
    })?;
    check_owner(&dir, workspace)?;
    check_git_directory(&dir)?;
    let own = match &lead.worktree {
        Some(name) => Some(leads_back(&dir, &lead, name, workspace.path())?),
        None => None,
    };
    let settings = settings(&dir, own.as_ref())?;
    match own {
        None => check_main(&lead.common, &settings, workspace.path())?,
        Some(_) if seen == Site::Inside => check_files(&lead.common, &settings)?,
        Some(_) => {}
    }
    let hooks = value_of(&settings, "hookspath");
    let hooks = hooks.and_then(|path| path_by_names(workspace.path(), path));
    let hooks = hooks.and_then(|path| Some(path.strip_prefix(workspace.path()).ok()?.to_owned()));
    Ok(Some(Repository {
        borrows: borrowed(&dir)?,
        hooks: hooks
            .iter()
            .filter_map(|path| Some(path.to_str()?.to_owned()))
            .collect(),
        worktree: lead.worktree,
        dir,
    }))
}

/// The text of the workspace's `.git` file; nothing if it has none: git then works in the guest as here.
fn dot_git(workspace: &SharedDir) -> Found<Option<Vec<u8>>> {
    let found = small_file::read(workspace.dir(), DOT_GIT, LONGEST);
    match found {
        Ok(Small::Absent | Small::Directory) => Ok(None),
        Ok(Small::Text(text)) => Ok(Some(text)),
        Ok(Small::Link) if leads_inside(workspace) => Ok(None),
        Ok(Small::Link) => apart(
            "its .git is a symbolic link, and Snowglobe follows none; use `git worktree add` instead",
        ),
        Ok(Small::TooLong) => apart("its .git is too long to be one of git's files"),
        Ok(Small::Odd) => apart("its .git is neither a file nor a directory"),
        Err(error) => apart(format!("its .git can't be read: {error}")),
    }
}

/// Whether the link `.git` leads to something in the workspace.
fn leads_inside(workspace: &SharedDir) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(workspace.dir(), DOT_GIT, flags, Mode::empty(), within).is_ok()
}

/// Where a `.git` file leads. Pure.
fn lead(workspace: &Path, text: &[u8]) -> Found<Lead> {
    let Some(git) = gitdir(workspace, text) else {
        return apart("its .git is not one of git's files");
    };
    let parent = git.parent().unwrap_or(Path::new("/"));
    let Some(text) = git.to_str() else {
        return apart(format!("{} is not UTF-8", git.display()));
    };
    let linked = parent.file_name() == Some(OsStr::new("worktrees"));
    let name = text.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(match parent.parent().filter(|_| linked) {
        Some(common) => Lead {
            common: common.to_owned(),
            worktree: Some(name),
            git,
        },
        None => Lead {
            common: git.clone(),
            worktree: None,
            git,
        },
    })
}

/// Refuses a repository of which a worktree's part can't be told by the names of files.
fn check_files(common: &Path, settings: &[Setting]) -> Found<()> {
    let mut storage = settings
        .iter()
        .filter(|it| it.section == "extensions" && it.name == "refstorage");
    match storage.next_back().and_then(|it| it.value.as_deref()) {
        None | Some(b"files") => Ok(()),
        Some(_) => apart(format!(
            "{} keeps its references in another form than files, which a copy of one worktree can't have; \
             workspace_mode = \"mount\" shares it",
            common.display()
        )),
    }
}

/// As git does: another user's repository would be theirs to change meanwhile.
fn check_owner(dir: &SharedDir, workspace: &SharedDir) -> Found<()> {
    let owner = |dir: &SharedDir| rustix::fs::fstat(dir.dir()).map(|stat| stat.st_uid);
    let (theirs, its) = match (owner(dir), owner(workspace)) {
        (Ok(theirs), Ok(its)) => (theirs, its),
        (Err(error), _) | (_, Err(error)) => {
            return apart(format!(
                "the owner of {} is unknown: {error}",
                dir.path().display()
            ));
        }
    };
    if theirs == rustix::process::geteuid().as_raw() || theirs == its {
        return Ok(());
    }
    apart(format!(
        "{} belongs to user {theirs}, and not to you or to the owner of the workspace",
        dir.path().display()
    ))
}

fn check_git_directory(dir: &SharedDir) -> Found<()> {
    for name in ["HEAD", "objects", "refs"] {
        let found = rustix::fs::statat(dir.dir(), name, AtFlags::SYMLINK_NOFOLLOW);
        if let Err(error) = found {
            let place = dir.path().display();
            return apart(format!(
                "{place} is no repository: {name}: {}",
                io::Error::from(error)
            ));
        }
    }
    Ok(())
}

/// The worktree's own directory in the repository, if its files name the repository and the workspace.
fn leads_back(dir: &SharedDir, lead: &Lead, name: &str, workspace: &Path) -> Found<OwnedFd> {
    let own = directory(dir.dir(), &["worktrees", name])
        .or_else(|error| apart(format!("{} can't be opened: {error}", lead.git.display())))?;
    let says = |file: &str| -> Found<PathBuf> {
        let text = text(own.as_fd(), file).or_else(|error| {
            apart(format!(
                "{}/{file} can't be read: {error}",
                lead.git.display()
            ))
        })?;
        path_by_names(&lead.git, without_line_end(&text)).map_or_else(
            || apart(format!("{}/{file} names nothing", lead.git.display())),
            Ok,
        )
    };
    if says("commondir")? != lead.common {
        return apart(format!(
            "{} belongs to another repository",
            lead.git.display()
        ));
    }
    let back = says("gitdir")?;
    if back != workspace.join(DOT_GIT) {
        return apart(format!(
            "it has this worktree at {}; `git worktree repair` in the workspace corrects that",
            back.display()
        ));
    }
    Ok(own)
}

/// Refuses a main worktree that the repository's settings do not name.
fn check_main(common: &Path, settings: &[Setting], workspace: &Path) -> Found<()> {
    let back = value_of(settings, "worktree").and_then(|path| path_by_names(common, path));
    if back.as_deref() == Some(workspace) {
        return Ok(());
    }
    let place = common.display();
    let says = match back {
        Some(back) => format!(
            "the settings of {place} name another worktree, {}",
            back.display()
        ),
        None => format!("the settings of {place} do not name this directory as its worktree"),
    };
    apart(format!(
        "{says}; `git config core.worktree \"$PWD\"` in the workspace corrects that"
    ))
}

/// The settings of a repository and of a worktree's own directory, in the order in which git reads them.
fn settings(dir: &SharedDir, own: Option<&OwnedFd>) -> Found<Vec<Setting>> {
    let read = |dir, name: &str| -> Found<Vec<Setting>> {
        let failed = |why: String| apart(format!("its settings ({name}) can't be read: {why}"));
        match small_file::read(dir, name, git_config::LARGEST) {
            Ok(Small::Absent) => Ok(Vec::new()),
            Ok(Small::Text(text)) => {
                git_config::parse(&text).or_else(|unsure| failed(unsure.to_string()))
            }
            Ok(_) => failed("it is no file of a usual size".to_owned()),
            Err(error) => failed(error.to_string()),
        }
    };
    let mut all = read(dir.dir(), "config")?;
    let extended = all
        .iter()
        .rev()
        .find(|it| it.section == "extensions" && it.name == "worktreeconfig");
    let value = extended.map(|it| it.value.as_deref().unwrap_or(b"true").to_ascii_lowercase());
    if matches!(value.as_deref(), Some(b"true" | b"yes" | b"on" | b"1")) {
        let own = own.map_or(dir.dir(), AsFd::as_fd);
        all.extend(read(own, "config.worktree")?);
    }
    Ok(all)
}

/// The last value of a setting of `core`.
fn value_of<'a>(settings: &'a [Setting], name: &str) -> Option<&'a [u8]> {
    let mut values = settings
        .iter()
        .filter(|it| it.section == "core" && it.subsection.is_empty() && it.name == name);
    values.next_back()?.value.as_deref()
}

/// The directories outside of a repository from which it borrows objects.
fn borrowed(dir: &SharedDir) -> Found<Vec<String>> {
    let failed =
        |error: io::Error| Apart(format!("objects/info/alternates can't be read: {error}"));
    let info = match directory(dir.dir(), &["objects", "info"]) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        info => info.map_err(failed)?,
    };
    let text = match text(info.as_fd(), "alternates") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(failed)?,
    };
    let objects = dir.path().join("objects");
    let lines = text.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    let outside = lines.filter(|line| {
        path_by_names(&objects, line).is_none_or(|path| !path.starts_with(dir.path()))
    });
    Ok(outside
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect())
}

/// A directory below another, reached without following links.
fn directory(dir: impl AsFd, names: &[&str]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = dir.as_fd().try_clone_to_owned()?;
    for name in names {
        at = rustix::fs::openat(&at, *name, flags, Mode::empty())?;
    }
    Ok(at)
}

/// The text of one of git's small files.
fn text(dir: impl AsFd, name: &str) -> io::Result<Vec<u8>> {
    match small_file::read(dir.as_fd(), name, LONGEST)? {
        Small::Text(text) => Ok(text),
        Small::Absent => Err(io::ErrorKind::NotFound.into()),
        _ => Err(io::Error::other("it is no small file")),
    }
}

impl Repository {
    /// The git directory of the worktree.
    pub fn git_dir(&self) -> PathBuf {
        let common = self.dir.path();
        match &self.worktree {
            Some(name) => common.join("worktrees").join(name),
            None => common.to_owned(),
        }
    }

    /// Links to make in the guest, from other paths by which git gets from the workspace to the repository and back: the
    /// workspace's own path, and the one that a relative name of the repository means at [`WORKSPACE`].
    pub fn links(&self, workspace: &Path) -> Vec<(PathBuf, PathBuf)> {
        let common = self.dir.path();
        let shared = workspace.components().zip(common.components());
        let depth = shared.take_while(|(one, other)| one == other).count();
        let rest: PathBuf = common.components().skip(depth).collect();
        let seen = Path::new("/").join(rest);
        [
            (workspace.to_owned(), PathBuf::from(WORKSPACE)),
            (seen, common.to_owned()),
        ]
        .into_iter()
        .filter(|(link, target)| {
            !link.starts_with(WORKSPACE) && !link.starts_with(target) && !target.starts_with(link)
        })
        .collect()
    }

    /// What is said of it, beyond that it is shared.
    pub fn trouble(&self) -> Option<String> {
        let (first, more) = self.borrows.split_at(self.borrows.len().min(NAMED));
        let more = match more.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!first.is_empty()).then(|| {
            format!(
                "the repository {} borrows objects from {}{more}, which the sandbox does not see: git may miss some there; \
                 `git repack -a -d` and the removal of objects/info/alternates make it whole",
                self.dir.path().display(),
                first.join(", ")
            )
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
