//! What works on this host, engine by engine, each problem with its remedy.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;
use snowglobe_runner::{Accel, EngineSpec, Trial};

use crate::blocking::blocking;
use crate::config::{AccelChoice, Config, EngineChoice, HostConfig, IsolationChoice};
use crate::image::{HUB, ImageError, ImageRef, ImageStore, login_problem};
use crate::network::health::{self, Finding};
use crate::rundir::RuntimeDir;
use crate::text::grouped;
use crate::vmm::{
    self, artefacts,
    host::{self, Host},
};
use crate::workspace::SharedDir;

/// One check.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// How it went.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What helps, where something would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It works.
    Ok,
    /// Sandboxes run, but not as well as they could.
    Note,
    /// No sandbox runs.
    Problem,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        })
    }
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn problem(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Problem,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn note(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Note,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// Runs all checks.
pub async fn checks(config: &Config) -> Vec<Check> {
    let (host, login) = (config.clone(), login_problem(HUB).await);
    let mut checks = blocking(move || all(&host, login)).await;
    let environment = |name: &str| std::env::var(name).ok();
    let network = health::findings(&config.sandbox.network, &environment).await;
    checks.extend(network.into_iter().map(|finding| match finding {
        Finding::Works(found) => Check::ok("network", found),
        Finding::Lacks(found, remedy) => Check::note("network", found, remedy),
    }));
    checks
}

/// All checks: they start programs and look at the disk. `login`: what is wrong with the logins that are kept. Blocks.
fn all(config: &Config, login: Option<String>) -> Vec<Check> {
    let host = Host::probe(&config.host.dirs.cache);
    let mut checks = vec![match host.kvm.problem() {
        None => Check::ok("kvm", "hardware virtualization works"),
        Some(problem) => {
            let (found, remedy) = parts(&problem).unwrap_or((&problem, "install KVM"));
            let found = format!("{found}; sandboxes run translated (tcg), several times slower");
            Check::note("kvm", found, remedy)
        }
    }];
    checks.extend(engine(&config.host, &host));
    for (name, found) in [("runner", artefacts::runner()), ("init", artefacts::init())] {
        checks.push(match found {
            Ok(path) => Check::ok(name, path.display().to_string()),
            Err(error) => {
                let error = crate::describe(&error);
                let (found, remedy) = parts(&error).unwrap_or((&error, "install Snowglobe again"));
                Check::problem(name, format!("failed to {found}"), remedy)
            }
        });
    }
    checks.push(kernel(&config.host.dirs.cache));
    checks.push(image(config));
    checks.extend(config.sandbox.workspace.shared().map(workspace));
    checks.extend(config.sandbox.workspace.copied().map(|dir| {
        Check::ok(
            "workspace",
            format!(
                "the sandbox has a copy of {}; `snowglobe changes` shows what it changes there",
                dir.path().display()
            ),
        )
    }));
    checks.extend(repository(config));
    checks.push(match login {
        None => Check::ok("logins", "what is kept for registries can be read"),
        Some(trouble) => Check::note(
            "logins",
            trouble,
            "mend that, or log in again with `docker login`; until then images are pulled without a login",
        ),
    });
    checks.push(writable("data", &config.host.dirs.data));
    checks.push(match RuntimeDir::open(&config.host.dirs.runtime) {
        Ok(Some(runtime)) => writable("runtime", runtime.path()),
        Ok(None) => writable("runtime", &config.host.dirs.runtime),
        Err(error) => Check::problem(
            "runtime",
            format!("failed to {}", crate::describe(&error)),
            "remove it if it is not yours, or set SNOWGLOBE_RUNTIME_DIR to another place",
        ),
    });
    checks.extend(fences(&config.host));
    checks
}

/// What was found and what helps, of a message that states both.
fn parts(message: &str) -> Option<(&str, &str)> {
    message.split_once("; ")
}

/// The checks as text: a line each, with its remedy below it.
pub fn report(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let Check {
            name,
            status,
            found,
            ..
        } = check;
        writeln!(text, "{status:<8} {name:<16} {found}").ok();
        if let Some(remedy) = &check.remedy {
            writeln!(text, "{:<8} {:<16} -> {remedy}", "", "").ok();
        }
    }
    text.push_str(match works(checks) {
        true => "This host can run sandboxes.\n",
        false => "This host can't run sandboxes yet.\n",
    });
    text
}

/// Whether there is no problem.
pub fn works(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.status != Status::Problem)
}

/// Tries each fence around a VM's processes. A missing one is a problem if all are required.
fn fences(host: &HostConfig) -> Vec<Check> {
    let check = |trial: Trial| {
        let name = match trial.fence.as_str() {
            "processes" => "fence processes",
            "network" => "fence network",
            "root directory" => "fence files",
            "Landlock" => "fence Landlock",
            "system calls" => "fence calls",
            "control group" => "fence bounds",
            _ => "fences",
        };
        let Some(failure) = trial.failure else {
            return Check::ok(name, "holds, as tried in a child");
        };
        let found = format!("does not hold: {failure}");
        let remedy = remedy(name);
        match host.isolation {
            IsolationChoice::Require => Check::problem(name, found, remedy),
            IsolationChoice::Best => Check::note(name, found, remedy),
        }
    };
    host::fences().into_iter().map(check).collect()
}

/// How soon a sandbox sees what changes in its workspace on this machine.
fn workspace(shared: &SharedDir) -> Check {
    if let Some(why) = host::unwatched(shared.path()) {
        return Check::note(
            "workspace",
            format!(
                "changes here are seen in the sandbox within a second, not at once, and its programs that watch files miss \
                 them: {why}"
            ),
            "keep the project on a local file system; the kernel must be 5.13 or newer",
        );
    }
    let most = host::most_watched();
    let most = most.map_or_else(String::new, |most| {
        format!(
            ", in up to {} directories (fs.fanotify.max_user_marks)",
            grouped(most)
        )
    });
    Check::ok(
        "workspace",
        format!("changes here are seen in the sandbox at once{most}"),
    )
}

/// The remedy for a missing fence.
fn remedy(name: &str) -> &'static str {
    match name {
        "fence processes" | "fence network" | "fence files" => {
            "allow user namespaces: sysctl user.max_user_namespaces=15000 \
             kernel.apparmor_restrict_unprivileged_userns=0; in a container, let it make them and show it all of /proc"
        }
        "fence Landlock" => "a kernel from 6.12 on, with landlock among lsm= of its command line",
        "fence calls" => "a kernel with CONFIG_SECCOMP_FILTER",
        "fence bounds" => {
            "the guest's own size still holds; where systemd runs, systemd-run --user --scope snowglobe ... gives it a group"
        }
        _ => "install Snowglobe again",
    }
}

fn engine(config: &HostConfig, host: &Host) -> Vec<Check> {
    let engine = match vmm::choose(config, host) {
        Ok(engine) => engine,
        Err(error) => {
            let error = error.to_string();
            let (found, remedy) = parts(&error).unwrap_or((
                &error,
                "leave out engine, accel and qemu, or set them to what this host has",
            ));
            return vec![Check::problem(
                "engine",
                format!("failed to {found}"),
                remedy,
            )];
        }
    };
    let why = match (config.engine, config.accel) {
        (EngineChoice::Auto, AccelChoice::Auto) if engine == EngineSpec::Krun => {
            "chosen since hardware virtualization works"
        }
        (EngineChoice::Auto, AccelChoice::Auto) => "chosen since it runs without KVM",
        (EngineChoice::Auto, _) => "chosen since accel is configured, which is qemu's",
        (EngineChoice::Krun | EngineChoice::Qemu, _) => "as configured",
    };
    let can = vmm::capabilities(&engine);
    let chosen = match &engine {
        EngineSpec::Krun => Check::ok("engine krun", format!("libkrun, on KVM; {why}")),
        EngineSpec::Qemu { binary, accel } => {
            let version = version(binary).unwrap_or_else(|| "unknown version".into());
            let how = match accel {
                Accel::Kvm => "on KVM",
                Accel::Hvf => "on HVF",
                Accel::Tcg => "translated (tcg)",
            };
            Check::ok(
                "engine qemu",
                format!("{} ({version}), {how}; {why}", binary.display()),
            )
        }
    };
    vec![chosen, Check::ok("engine's traits", can.to_string())]
}

/// The repository of the workspace, if that lies outside.
fn repository(config: &Config) -> Option<Check> {
    let workspace = &config.sandbox.workspace;
    if let Some(trouble) = workspace.git_trouble() {
        let (found, remedy) = parts(&trouble).unwrap_or((&trouble, "use git on this machine"));
        return Some(Check::note("repository", found, remedy));
    }
    let (repository, how) = match workspace.repository() {
        Some(shared) => (shared, "shared"),
        None => (workspace.copied_repository()?, "copied"),
    };
    let place = repository.dir.path().display();
    let found = format!("{place}, outside of the workspace, is {how}, too");
    Some(Check::ok("repository", found))
}

fn version(program: &Path) -> Option<String> {
    let mut command = std::process::Command::new(program);
    let output = command.arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.lines().next()?.split_whitespace();
    words
        .skip_while(|word| *word != "version")
        .nth(1)
        .map(str::to_owned)
}

fn image(config: &Config) -> Check {
    let found = config
        .sandbox
        .image
        .parse::<ImageRef>()
        .map_err(ImageError::from)
        .and_then(|reference| {
            let store = ImageStore::look(&config.host.dirs.data);
            let key = store.resolve(&reference)?;
            Ok((store.find(&key)?, key, reference))
        });
    match found {
        Ok((Some(image), ..)) => Check::ok(
            "image",
            format!("{} (disk {})", config.sandbox.image, image.disk.disk),
        ),
        Ok((None, key, _)) if key.as_str().contains(':') => Check::note(
            "image",
            format!("{key} is not here yet; the first boot gets it"),
            format!("snowglobe image pull {key} gets it now"),
        ),
        Ok((None, key, _)) => Check::problem(
            "image",
            format!("there is no image `{key}` yet"),
            format!("snowglobe image build {key}, or snowglobe image import {key} ROOTFS.tar"),
        ),
        Err(error) => Check::problem(
            "image",
            format!("failed to {}", crate::describe(&error)),
            "snowglobe image ls shows the images that are here".to_owned(),
        ),
    }
}

/// The kernel comes with the program; the first boot unpacks it.
fn kernel(cache: &Path) -> Check {
    let path = artefacts::kernel_path(cache);
    match path.exists() {
        true => Check::ok("kernel", path.display().to_string()),
        false => Check {
            found: format!("the first boot unpacks it to {}", path.display()),
            name: "kernel",
            ..writable("kernel", cache)
        },
    }
}

/// Whether files can be made in a directory that is there, or the directory where it is to be. Makes neither.
fn writable(name: &'static str, dir: &Path) -> Check {
    let tried = match dir.ancestors().find(|path| path.symlink_metadata().is_ok()) {
        Some(there) if there == dir => tempfile::tempfile_in(dir).map(drop),
        Some(above) => can_make_in(above),
        None => Err(ErrorKind::NotFound.into()),
    };
    match tried {
        Ok(()) => Check::ok(name, dir.display().to_string()),
        Err(error) => {
            let setting = match name {
                "data" => "data_dir",
                _ => "SNOWGLOBE_RUNTIME_DIR",
            };
            let remedy = match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room there",
                ErrorKind::PermissionDenied => "make it yours",
                ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                    "remove the file that is in its place"
                }
                _ => "mend that file system",
            };
            Check::problem(
                name,
                format!("{} can't be written: {error}", dir.display()),
                format!("{remedy}, or set {setting} to another place"),
            )
        }
    }
}

fn can_make_in(dir: &Path) -> std::io::Result<()> {
    use rustix::fs::Access;
    if !dir.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    Ok(rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_can_not_be_written_has_its_own_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let check = writable("data", &file.join("below"));
        let remedy = check.remedy.unwrap();
        assert_eq!(check.status, Status::Problem);
        assert!(
            remedy.contains("remove the file") && remedy.contains("data_dir"),
            "{remedy}"
        );
        assert_eq!(writable("data", dir.path()).status, Status::Ok);
    }

    #[test]
    fn what_is_fine_has_no_remedy_and_what_is_not_has_one() {
        let checks = [Check::ok("a", "works"), Check::note("b", "slow", "do that")];
        assert!(works(&checks));
        let text = report(&checks);
        assert!(
            text.contains("ok       a ") && text.contains("-> do that"),
            "{text}"
        );
        let broken = Check::problem("c", "broken", "do this");
        assert!(!works(&[broken]));
    }
}
