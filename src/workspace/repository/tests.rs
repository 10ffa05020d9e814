//! Real repositories of real git, and `.git` files that lead elsewhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// What a shell line prints, in a directory; git has no settings of the user's, and clones from this machine.
pub(crate) fn shell(dir: &Path, line: &str) -> String {
    let done = Command::new("sh")
        .args(["-c", line])
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "protocol.file.allow")
        .env("GIT_CONFIG_VALUE_0", "always")
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "x")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "x@example")))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

/// A directory with repositories in it, at a path without links.
struct Place {
    _dir: tempfile::TempDir,
    base: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            base: dir.path().canonicalize().unwrap(),
            _dir: dir,
        }
    }

    /// A repository with one commit, and a worktree `tree` of it.
    fn with_worktree() -> Self {
        let place = Self::new();
        place.run("git init -q -b main repo && cd repo && git commit -q --allow-empty -m one && git worktree add -q ../tree");
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    fn run(&self, line: &str) {
        shell(&self.base, line);
    }

    fn find(&self, workspace: &str) -> Git {
        let workspace = SharedDir::open(&self.at(workspace)).unwrap();
        Git::find(&workspace, Site::Beside, &|_| None)
    }

    fn shared(&self, workspace: &str) -> Repository {
        match self.find(workspace) {
            Git::Shared(repository) => repository,
            other => panic!("{other:?}"),
        }
    }

    /// Why the repository is not shared.
    fn why(&self, workspace: &str) -> String {
        match self.find(workspace) {
            Git::Apart(apart) => apart.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_worktree_has_its_repository_shared() {
    let place = Place::with_worktree();
    let repository = place.shared("tree");
    assert_eq!(repository.dir.path(), place.at("repo/.git"));
    assert_eq!(repository.worktree.as_deref(), Some("tree"));
    assert!(repository.hooks.is_empty() && repository.trouble().is_none());
    assert_eq!(place.find("repo"), Git::Inside);
    fs::create_dir(place.at("plain")).unwrap();
    assert_eq!(place.find("plain"), Git::Inside);
    // Both in one workspace: nothing else has to be shared.
    place.run("cd repo && git worktree add -q inner && mv inner/.git .git-of-inner");
    fs::rename(place.at("repo/.git"), place.at("repo/moved")).unwrap();
    fs::write(place.at("repo/.git"), "gitdir: moved/worktrees/inner\n").unwrap();
    assert_eq!(place.find("repo"), Git::Inside);
}

#[test]
fn relative_names_lead_there_and_back() {
    let place = Place::with_worktree();
    fs::write(
        place.at("tree/.git"),
        "gitdir: ../repo/.git/worktrees/tree\n",
    )
    .unwrap();
    let back = place.at("repo/.git/worktrees/tree/gitdir");
    fs::write(&back, "../../../../tree/.git\n").unwrap();
    let repository = place.shared("tree");
    assert_eq!(repository.dir.path(), place.at("repo/.git"));
    assert_eq!(
        repository.links(&place.at("tree")),
        [
            (place.at("tree"), WORKSPACE.into()),
            ("/repo/.git".into(), place.at("repo/.git"))
        ]
    );
    fs::write(&back, "../../../tree/.git\n").unwrap();
    assert!(place.why("tree").contains("git worktree repair"));
}

#[test]
fn a_submodule_has_its_repository_shared() {
    let place = Place::with_worktree();
    place.run("git init -q super && cd super && git -c protocol.file.allow=always submodule -q add ../repo sub");
    let repository = place.shared("super/sub");
    assert_eq!(repository.dir.path(), place.at("super/.git/modules/sub"));
    assert_eq!(repository.worktree, None);
    let links = repository.links(&place.at("super/sub"));
    assert_eq!(links[1].0, Path::new("/.git/modules/sub"));
    // A worktree of the superproject has submodules of its own.
    place.run("cd super && git commit -qm sub && git worktree add -q ../other && cd ../other && git -c protocol.file.allow=always submodule -q update --init");
    let repository = place.shared("other/sub");
    assert_eq!(
        repository.dir.path(),
        place.at("super/.git/worktrees/other/modules/sub")
    );
}

#[test]
fn a_git_directory_that_does_not_name_its_worktree_is_not_shared() {
    let place = Place::new();
    place.run("git init -q --separate-git-dir=$PWD/separate.git work");
    let why = place.why("work");
    assert!(
        why.contains("do not name this directory") && why.contains("git config core.worktree"),
        "{why}"
    );
    place.run("cd work && git config core.worktree \"$PWD\"");
    assert_eq!(place.shared("work").dir.path(), place.at("separate.git"));
    place.run("cd work && git config core.worktree /elsewhere");
    assert!(
        place
            .why("work")
            .contains("name another worktree, /elsewhere")
    );
    // Git reads these only if the first file says so.
    fs::write(
        place.at("separate.git/config.worktree"),
        format!("[core]\n\tworktree = {}\n", place.at("work").display()),
    )
    .unwrap();
    place.why("work");
    place.run("git config -f separate.git/config extensions.worktreeConfig true");
    place.shared("work");
}

#[test]
fn a_worktree_that_was_moved_is_shared_once_git_knows() {
    let place = Place::with_worktree();
    fs::rename(place.at("tree"), place.at("moved")).unwrap();
    let why = place.why("moved");
    let was = place.at("tree/.git").display().to_string();
    assert!(
        why.contains(&was) && why.contains("git worktree repair"),
        "{why}"
    );
    place.run("cd moved && git worktree repair 2>/dev/null");
    place.shared("moved");
    // A copy is not the worktree.
    place.run("cp -r moved copy");
    place.why("copy");
}

#[test]
fn what_leads_to_no_repository_is_said() {
    let place = Place::with_worktree();
    let work = place.at("work");
    fs::create_dir(&work).unwrap();
    let dot_git = work.join(".git");
    let long = format!("gitdir: /{}", "x".repeat(LONGEST));
    for (text, said) in [
        ("", "not one of git's files"),
        ("gitdir: ", "not one of git's files"),
        ("gitdir: a\nb\n", "not one of git's files"),
        ("x", "not one of git's files"),
        (long.as_str(), "too long"),
        ("gitdir: /no/such/directory\n", "can't be opened"),
        ("gitdir: ../repo\n", "is no repository: HEAD"),
        ("gitdir: ../repo/.git\n", "do not name this directory"),
        (
            "gitdir: ../repo/.git/worktrees/tree\n",
            "has this worktree at",
        ),
        ("gitdir: ../repo/.git/worktrees/none\n", "can't be opened"),
        ("gitdir: ..\n", "holds the workspace itself"),
        ("gitdir: /workspace/x\n", "in the sandbox, /workspace is"),
    ] {
        fs::write(&dot_git, text).unwrap();
        let why = place.why("work");
        assert!(why.contains(said), "{text:.40}: {why}");
    }
    fs::remove_file(&dot_git).unwrap();
    symlink("../repo/.git", &dot_git).unwrap();
    assert!(place.why("work").contains("symbolic link"));
    fs::remove_file(&dot_git).unwrap();
    place.run("cd work && mkdir real && ln -s real .git");
    assert_eq!(place.find("work"), Git::Inside);
    place.run("cd work && rm .git && mkfifo .git");
    assert!(place.why("work").contains("neither a file nor a directory"));
    // A way through a link, and a worktree's directory that is one.
    fs::remove_file(&dot_git).unwrap();
    symlink("repo", place.at("link")).unwrap();
    fs::write(
        place.at("tree/.git"),
        "gitdir: ../link/.git/worktrees/tree\n",
    )
    .unwrap();
    assert!(place.why("tree").contains("without following a link"));
    fs::write(
        place.at("tree/.git"),
        "gitdir: ../repo/.git/worktrees/tree\n",
    )
    .unwrap();
    place.run("cd repo/.git/worktrees && mv tree real && ln -s real tree");
    assert!(place.why("tree").contains("can't be opened"));
}

#[test]
fn a_place_that_must_not_be_shared_is_not_opened() {
    let place = Place::with_worktree();
    let workspace = SharedDir::open(&place.at("tree")).unwrap();
    let found = Git::find(&workspace, Site::Beside, &|path| {
        assert_eq!(path, place.at("repo/.git"));
        Some("it holds your keys".to_owned())
    });
    let Git::Apart(apart) = found else {
        panic!("{found:?}");
    };
    assert!(
        apart
            .to_string()
            .contains("can't be shared: it holds your keys")
    );
    // A bare repository that holds its own worktrees would be the workspace once more.
    place.run(
        "git clone -q --bare repo bare 2>/dev/null && cd bare && git worktree add -q inner main",
    );
    assert!(
        place
            .why("bare/inner")
            .contains("holds the workspace itself")
    );
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(place.at("repo/.git"), Some(4321), None).unwrap();
        assert!(place.why("tree").contains("belongs to user 4321"));
        std::os::unix::fs::chown(place.at("tree"), Some(4321), None).unwrap();
        place.shared("tree");
    }
}

#[test]
fn a_worktrees_files_must_name_its_repository() {
    let place = Place::with_worktree();
    let common = place.at("repo/.git/worktrees/tree/commondir");
    for (text, said) in [
        ("..\n", "belongs to another repository"),
        ("", "names nothing"),
    ] {
        fs::write(&common, text).unwrap();
        assert!(place.why("tree").contains(said), "{text}");
    }
    fs::remove_file(&common).unwrap();
    assert!(place.why("tree").contains("commondir can't be read"));
    fs::write(&common, format!("{}\n", place.at("repo/.git").display())).unwrap();
    place.shared("tree");
    fs::write(place.at("repo/.git/config"), "[core\n").unwrap();
    assert!(
        place
            .why("tree")
            .contains("settings (config) can't be read")
    );
}

#[test]
fn hooks_in_the_workspace_and_borrowed_objects_are_known() {
    let place = Place::with_worktree();
    for (value, hooks) in [
        (".husky/_", &[".husky/_"][..]),
        ("../elsewhere", &[]),
        (
            place.at("tree/tools/hooks").to_str().unwrap(),
            &["tools/hooks"],
        ),
    ] {
        place.run(&format!("cd repo && git config core.hooksPath '{value}'"));
        assert_eq!(place.shared("tree").hooks, hooks, "{value}");
    }
    place.run("git clone -q --shared repo borrower && cd borrower && git worktree add -q ../lent");
    let trouble = place.shared("lent").trouble().unwrap();
    let from = place.at("repo/.git/objects").display().to_string();
    assert!(
        trouble.contains(&from) && trouble.contains("git repack -a -d"),
        "{trouble}"
    );
    fs::write(
        place.at("borrower/.git/objects/info/alternates"),
        "inside\n# x\n",
    )
    .unwrap();
    assert_eq!(place.shared("lent").trouble(), None);
}

/// Pieces of paths that exist, and of paths that do not.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "repo",
        ".git",
        "worktrees",
        "tree",
        "other",
        "work",
        "fake",
        "link",
        "..",
        ".",
        "",
        "x",
        "modules",
        "objects",
    ])
}

/// Whatever a `.git` file says, no directory is shared but the one whose own files name this workspace.
#[test]
fn no_text_shares_a_directory_that_does_not_lead_back() {
    let place = Place::with_worktree();
    place.run("cd repo && git worktree add -q ../other && cd .. && mkdir work && ln -s repo link");
    // One that a guest made: it names almost this workspace.
    place.run(
        "git init -q fake && mkdir -p fake/work fake/.git/worktrees/x && echo ../.. >fake/.git/worktrees/x/commondir",
    );
    let back = place.at("work/.git").display().to_string();
    fs::write(
        place.at("fake/.git/worktrees/x/gitdir"),
        format!("{back}x\n"),
    )
    .unwrap();
    let text = (
        any::<bool>(),
        proptest::collection::vec(piece(), 0..7),
        prop::sample::select(vec!["tree", "work", "fake/work"]),
        prop::sample::select(vec!["", "\n", "\r\n", " ", "\0"]),
    );
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let shared = std::cell::Cell::new(0);
    let is_right = |workspace: &str, path: &str, end: &str| {
        fs::write(
            place.at(workspace).join(".git"),
            format!("gitdir: {path}{end}"),
        )
        .unwrap();
        if let Git::Shared(repository) = place.find(workspace) {
            shared.set(shared.get() + 1);
            prop_assert_eq!(workspace, "tree");
            prop_assert_eq!(repository.dir.path(), place.at("repo/.git"));
            prop_assert_eq!(repository.worktree.as_deref(), Some("tree"));
        }
        Ok(())
    };
    let run = runner.run(&text, |(absolute, pieces, workspace, end)| {
        let path = pieces.join("/");
        let path = match absolute {
            true => place.at("").display().to_string() + &path,
            false => path,
        };
        is_right(workspace, &path, end)
    });
    run.unwrap();
    // The right one is found by several names.
    for path in [
        "../repo/.git/worktrees/tree",
        "../other/../repo/./.git//worktrees/tree",
    ] {
        is_right("tree", path, "\n").unwrap();
    }
    assert!(shared.get() >= 2);
}
