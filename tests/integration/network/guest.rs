//! A sandbox with a network, as a person configures it.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Place, Session};

/// The longest time for one line, in seconds: a package manager on a translated processor is slow.
const LONGEST: u32 = 1800;

pub(super) struct Guest {
    pub(super) place: Place,
    pub(super) session: Session,
}

impl Guest {
    /// Starts one with this configuration, and with these variables on the host.
    pub(super) async fn start<V: AsRef<OsStr>>(
        place: Place,
        memory_mib: u32,
        configuration: &str,
        variables: &[(&str, V)],
    ) -> Self {
        place.configure(configuration);
        let mut command = place.command(&["serve", "--rm"]);
        command
            .env("XDG_CONFIG_HOME", place.dir.path().join("config"))
            .env("SNOWGLOBE_MEMORY_MIB", memory_mib.to_string());
        for (name, value) in variables {
            command.env(name, value);
        }
        let session = Session::over(command).await;
        Self { place, session }
    }

    /// A sandbox that may use the public registries.
    pub(super) async fn with_packages(memory_mib: u32) -> Self {
        // This machine may have authorities of its own.
        let configuration = "[network]\nallow = [\"packages\"]\ntrust_host_ca = true\n";
        let variables: [(&str, &str); 0] = [];
        Self::start(Place::new("debian"), memory_mib, configuration, &variables).await
    }

    /// The result of a shell line, or of a program and its arguments.
    pub(super) async fn result(&self, user: &str, command: impl Into<Value>) -> Value {
        let command = command.into();
        let ask = json!({"command": command, "user": user, "timeout_s": LONGEST});
        self.session.call("exec", ask).await
    }

    async fn prints(&self, user: &str, line: &str) -> String {
        let result = self.result(user, line).await;
        assert_eq!(result["exit_code"], 0, "{line}: {result:#}");
        result["stdout"].as_str().unwrap().to_owned()
    }

    /// What a line prints that must exit with 0.
    pub(super) async fn run(&self, line: &str) -> String {
        self.prints("sandbox", line).await
    }

    /// The same as root.
    pub(super) async fn root(&self, line: &str) -> String {
        self.prints("root", line).await
    }

    /// A line must fail, and say this.
    pub(super) async fn fails(&self, line: &str, said: &str) {
        let result = self.result("sandbox", line).await;
        assert_ne!(result["exit_code"], 0, "{line}: {result:#}");
        assert!(result.to_string().contains(said), "{said}: {result:#}");
    }

    /// Puts a file of this machine into the workspace.
    pub(super) fn bring(&self, file: &Path, name: &str) {
        std::fs::copy(file, self.place.workspace.join(name)).unwrap();
    }
}
