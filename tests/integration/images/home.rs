//! A separate image store for one test, and the program that uses it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::{PROGRAM, private_dir};

pub(crate) struct Home {
    pub(crate) dir: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("snowglobe-images-")
            .tempdir()
            .unwrap();
        for part in ["workspace", "config/snowglobe", "docker", "bin"] {
            std::fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        private_dir(&dir.path().join("runtime"));
        Self { dir }
    }

    pub(crate) fn path(&self, part: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(part)
    }

    /// The user's configuration.
    pub(crate) fn configure(&self, toml: &str) {
        std::fs::write(self.path("config/snowglobe/config.toml"), toml).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        let path = format!(
            "{}:{}",
            self.path("bin").display(),
            std::env::var("PATH").unwrap()
        );
        command
            .args(arguments)
            .current_dir(self.path("workspace"))
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.dir.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("DOCKER_CONFIG", self.path("docker"))
            .env("SNOWGLOBE_DATA_DIR", self.path("data"))
            .env("SNOWGLOBE_RUNTIME_DIR", self.path("runtime"))
            .env("SNOWGLOBE_MEMORY_MIB", "384")
            .env("SNOWGLOBE_CPUS", "1")
            .env("SNOWGLOBE_BOOT_TIMEOUT_S", "120")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program; returns its exit code and all its output.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments).output().unwrap();
        (output.status.code().unwrap_or(-1), said(&output))
    }

    /// Runs the program, which must work.
    pub(crate) fn works(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the program, which must fail; returns its output.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let (code, said) = self.run(arguments);
        assert_ne!(code, 0, "{arguments:?} worked: {said}");
        said
    }

    /// The output of `image inspect` for an image.
    pub(crate) fn inspect(&self, image: &str) -> serde_json::Value {
        serde_json::from_str(&self.works(&["image", "inspect", image])).unwrap()
    }

    pub(crate) fn disk(&self, image: &str) -> PathBuf {
        let id = self.inspect(image)["disk"]["disk"]
            .as_str()
            .unwrap()
            .to_owned();
        self.path(format!("data/images/disks/{id}.raw"))
    }

    pub(crate) fn files(&self, part: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("data/images").join(part)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs a tool, which must work.
pub(crate) fn tool(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{name}: {e}; run .ci/setup"));
    assert!(
        output.status.success(),
        "{name} {arguments:?}: {}",
        said(&output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
