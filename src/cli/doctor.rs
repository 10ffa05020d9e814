//! `snowglobe doctor`: what works on this host, engine by engine, each problem with its remedy.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use snowglobe_runner::{Accel, Engine};

use super::{Done, load};
use crate::config::{Config, Raw};
use crate::image::{ImageError, ImageRef};
use crate::sandbox::image_store;
use crate::vmm::{self, artefacts, host::Host};

/// Say what works on this host, and what to do about what does not.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: Box<Raw>,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Check {
    /// What.
    name: &'static str,
    /// `ok`, `note` (works, but) or `problem` (does not work).
    status: &'static str,
    /// What was found.
    found: String,
    /// What helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: "ok",
            found: found.into(),
            remedy: None,
        }
    }

    fn problem(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name,
            status: "problem",
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn note(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name,
            status: "note",
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }
}

impl Doctor {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let checks = checks(&config).await;
        let works = checks.iter().all(|check| check.status != "problem");
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(
                out,
                "{}",
                serde_json::to_string_pretty(
                    &serde_json::json!({"works": works, "checks": checks})
                )?
            )?;
        } else {
            for check in &checks {
                writeln!(
                    out,
                    "{:<8} {:<16} {}",
                    check.status, check.name, check.found
                )?;
                if let Some(remedy) = &check.remedy {
                    writeln!(out, "{:<8} {:<16} -> {remedy}", "", "")?;
                }
            }
            writeln!(
                out,
                "{}",
                if works {
                    "This host can run sandboxes."
                } else {
                    "This host can't run sandboxes yet."
                }
            )?;
        }
        Ok(if works {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

async fn checks(config: &Config) -> Vec<Check> {
    let host = Host::detect();
    let mut checks = vec![match host.kvm.problem() {
        None => Check::ok("kvm", "hardware virtualization works"),
        Some(problem) => {
            let (found, remedy) = problem.split_once("; ").unwrap_or((
                &problem,
                "sandboxes run translated (tcg) meanwhile, several times slower",
            ));
            Check::note("kvm", found, remedy)
        }
    }];
    checks.push(engine(config, &host).await);
    checks.push(tool("qemu-img", "apt-get install qemu-utils").await);
    for (name, found) in [
        ("runner", artefacts::runner()),
        ("init", artefacts::init()),
        ("kernel", artefacts::kernel(&config.cache_dir)),
    ] {
        checks.push(match found {
            Ok(path) => Check::ok(name, path.display().to_string()),
            Err(error) => Check::problem(
                name,
                format!("failed to {}", crate::describe(&error)),
                "install Snowglobe again",
            ),
        });
    }
    checks.push(image(config));
    checks.push(writable("data", &config.data_dir));
    checks.push(writable("runtime", &config.runtime_dir));
    checks.push(
        match std::fs::read_to_string("/proc/sys/user/max_user_namespaces") {
            Ok(max) if max.trim() == "0" => Check::note(
                "namespaces",
                "user namespaces are off, so the engine runs without one of its own",
                "sysctl user.max_user_namespaces=15000",
            ),
            _ => Check::ok("namespaces", "user namespaces can be used"),
        },
    );
    checks
}

async fn engine(config: &Config, host: &Host) -> Check {
    match vmm::choose(config, host) {
        Ok(Engine::Qemu { binary, accel }) => {
            let version = version(&binary)
                .await
                .unwrap_or_else(|| "unknown version".into());
            let how = match accel {
                Accel::Kvm => "on KVM",
                Accel::Hvf => "on HVF",
                Accel::Tcg => "translated (tcg)",
            };
            Check::ok(
                "engine qemu",
                format!("{} ({version}), {how}", binary.display()),
            )
        }
        Ok(Engine::Krun) => Check::ok("engine krun", "libkrun, on KVM"),
        Err(error) => Check::problem(
            "engine",
            error.to_string(),
            "apt-get install qemu-system-x86 qemu-utils",
        ),
    }
}

async fn version(program: &Path) -> Option<String> {
    let output = tokio::process::Command::new(program)
        .arg("--version")
        .output()
        .await
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.lines().next()?.split_whitespace();
    words
        .skip_while(|word| *word != "version")
        .nth(1)
        .map(str::to_owned)
}

async fn tool(name: &'static str, remedy: &str) -> Check {
    match version(Path::new(name)).await {
        Some(version) => Check::ok(name, version),
        None => Check::problem(name, "not found in PATH", remedy),
    }
}

fn image(config: &Config) -> Check {
    let found = config
        .image
        .parse::<ImageRef>()
        .map_err(ImageError::from)
        .and_then(|reference| {
            let store = image_store(config)?;
            let key = store.resolve(&reference);
            Ok((store.find(&key)?, key, reference))
        });
    match found {
        Ok((Some(image), ..)) => Check::ok(
            "image",
            format!("{} (disk {})", config.image, image.disk.disk),
        ),
        Ok((None, key, _)) if key.as_str().contains(':') => Check::ok(
            "image",
            format!("{key} is not here yet; the first boot gets it"),
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

fn writable(name: &'static str, dir: &Path) -> Check {
    let tried = std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir).map(drop));
    match tried {
        Ok(()) => Check::ok(name, dir.display().to_string()),
        Err(error) => Check::problem(
            name,
            format!("{} can't be written: {error}", dir.display()),
            "make it yours, or configure another",
        ),
    }
}
