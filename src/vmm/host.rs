//! What this host can run; found out before a boot, never by waiting for one to fail.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use snowglobe_runner::{TRY_FENCES, TRY_WATCH, Trial};

/// The facts about a host that the choice of an engine depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Whether and how KVM can be used.
    pub kvm: Kvm,
}

/// Whether KVM can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// It works.
    Usable,
    /// There is no `/dev/kvm`.
    Absent,
    /// `/dev/kvm` can't be opened.
    Denied(String),
    /// A small guest that tried it did not run as on a real processor, for this reason.
    Broken(String),
    /// `/dev/kvm` exists, yet the processor has neither VT-x nor AMD-V to back it:
    /// such a KVM accepts a VM and fails minutes into its boot.
    Unbacked,
}

impl Kvm {
    /// Why it can't be used and what helps, for a person; none if it works.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Usable => None,
            Self::Absent => Some("/dev/kvm does not exist; load the kernel module kvm_intel or kvm_amd, or enable virtualization in the firmware".into()),
            Self::Denied(why) => Some(format!("/dev/kvm can't be opened ({why}); add yourself to the group kvm")),
            Self::Broken(why) => Some(format!("/dev/kvm exists, but a guest does not run on it ({why}); update the outer host's hypervisor, or enable nested virtualization there")),
            Self::Unbacked => Some("/dev/kvm exists, but the processor shows no VT-x or AMD-V, so guests would hang; enable nested virtualization on the outer host".into()),
        }
    }
}

/// How long the probe may take. It needs milliseconds, but starting it can take long on a busy machine.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// How long trying the fences may take: it starts a few processes.
const TRIAL_LIMIT: Duration = Duration::from_secs(20);

/// Results of the probe, valid until the host is restarted.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    boot: String,
    /// The runner that probed: its modification time.
    runner: Option<SystemTime>,
    problem: Option<String>,
}

impl Host {
    /// Examines this host. The result of the probe is kept in `cache` until the host is restarted.
    pub fn detect(cache: &Path) -> Self {
        Self::find(cache, true, |file| {
            serde_json::from_slice(&std::fs::read(file).ok()?).ok()
        })
    }

    /// Examines this host anew. A kept result is corrected, but none is kept that was not there before.
    pub fn probe(cache: &Path) -> Self {
        let keep = cache.join("kvm.json").exists();
        Self::find(cache, keep, |_| None)
    }

    /// `remembered` reads the kept result, which may be of another start of the host or another runner.
    fn find(
        cache: &Path,
        keep: bool,
        remembered: impl FnOnce(&Path) -> Option<Remembered>,
    ) -> Self {
        let looked = Self::look();
        if looked != Kvm::Usable {
            return Self { kvm: looked };
        }
        let file = cache.join("kvm.json");
        let (boot, runner) = (boot_id(), runner_stamp());
        let known = remembered(&file).filter(|known| known.boot == boot && known.runner == runner);
        let found = known.unwrap_or_else(|| {
            let problem = run_probe("--probe-kvm", Path::new("/"), PROBE_LIMIT)
                .and_then(|probed| (!probed.works).then_some(probed.said));
            let found = Remembered {
                boot,
                runner,
                problem,
            };
            // Best effort: on failure only the next process probes again.
            if keep {
                std::fs::create_dir_all(cache)
                    .and_then(|()| std::fs::write(&file, serde_json::to_vec(&found)?))
                    .ok();
            }
            found
        });
        Self {
            kvm: found.problem.map_or(Kvm::Usable, Kvm::Broken),
        }
    }

    fn look() -> Kvm {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let opened = Path::new("/dev/kvm").exists().then(|| {
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .map(drop)
                .map_err(|e| e.to_string())
        });
        judge_kvm(opened, cfg!(target_arch = "x86_64"), &cpuinfo)
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

fn runner_stamp() -> Option<SystemTime> {
    super::artefacts::runner()
        .ok()?
        .metadata()
        .ok()?
        .modified()
        .ok()
}

/// Each fence around a VM's processes, as it was tried here; empty without a runner.
pub fn fences() -> Vec<Trial> {
    match run_probe(TRY_FENCES, Path::new("/"), TRIAL_LIMIT) {
        None => Vec::new(),
        Some(Probed { said, .. }) => {
            let trials: Result<Vec<Trial>, _> = said.lines().map(serde_json::from_str).collect();
            trials.unwrap_or_else(|_| {
                vec![Trial {
                    fence: "fences".into(),
                    failure: Some(format!("they could not be tried: {said}")),
                }]
            })
        }
    }
}

/// Why changes in a directory are not reported to guests at once; none if they are, or without a runner.
pub fn unwatched(directory: &Path) -> Option<String> {
    let probed = run_probe(TRY_WATCH, directory, TRIAL_LIMIT)?;
    (!probed.works).then(|| probed.said.trim().to_owned())
}

/// How many directories of this user's sandboxes are watched at most; none if the kernel does not say.
pub fn most_watched() -> Option<u64> {
    let most = std::fs::read_to_string("/proc/sys/fs/fanotify/max_user_marks");
    most.ok()?.trim().parse().ok()
}

/// A probe's result.
struct Probed {
    /// Whether the runner exited with 0.
    works: bool,
    /// Its output on both streams.
    said: String,
}

/// Lets the runner try something; none without a runner, which other checks report.
fn run_probe(argument: &str, directory: &Path, limit: Duration) -> Option<Probed> {
    let runner = super::artefacts::runner().ok()?;
    let failed = |said| {
        let works = false;
        Some(Probed { works, said })
    };
    let child = Command::new(runner)
        .arg(argument)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return failed(format!("the probe could not be started: {error}")),
    };
    let (sender, ended) = std::sync::mpsc::channel();
    let streams = (child.stdout.take(), child.stderr.take());
    std::thread::spawn(move || {
        let mut said = String::new();
        if let (Some(mut out), Some(mut messages)) = streams {
            out.read_to_string(&mut said).ok();
            messages.read_to_string(&mut said).ok();
        }
        sender.send(said).ok();
    });
    let said = ended.recv_timeout(limit);
    if said.is_err() {
        child.kill().ok();
    }
    match (child.wait(), said) {
        (Ok(status), Ok(said)) => Some(Probed {
            works: status.success(),
            said: said.trim().to_owned(),
        }),
        (Err(error), _) => failed(format!("the probe is lost: {error}")),
        (_, Err(_)) => failed(format!("it had done nothing after {} s", limit.as_secs())),
    }
}

fn judge_kvm(opened: Option<Result<(), String>>, x86: bool, cpuinfo: &str) -> Kvm {
    let backed = !x86
        || cpuinfo
            .lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| {
                line.split_whitespace()
                    .any(|flag| flag == "vmx" || flag == "svm")
            });
    match opened {
        None => Kvm::Absent,
        Some(_) if !backed => Kvm::Unbacked,
        Some(Err(why)) => Kvm::Denied(why),
        Some(Ok(())) => Kvm::Usable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_a_processor_behind_it_is_not_kvm() {
        let with = "flags\t\t: fpu svm lm\n";
        let without = "flags\t\t: fpu lm svm_lock\n";
        assert_eq!(judge_kvm(Some(Ok(())), true, with), Kvm::Usable);
        assert_eq!(judge_kvm(Some(Ok(())), true, without), Kvm::Unbacked);
        assert_eq!(judge_kvm(Some(Ok(())), false, ""), Kvm::Usable);
        assert_eq!(judge_kvm(None, true, with), Kvm::Absent);
        assert_eq!(
            judge_kvm(Some(Err("no".into())), true, with),
            Kvm::Denied("no".into())
        );
    }
}
