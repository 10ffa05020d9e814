//! A real terminal: tmux.

use std::path::PathBuf;
use std::process::Command;

use super::{PROGRAM, Place};

/// A tmux session for one test, on its own tmux server. Its shell is in the place's workspace.
pub struct Tmux {
    socket: PathBuf,
    /// The program with the place's settings, as a word of a shell line.
    pub program: String,
}

impl Tmux {
    pub fn start(place: &Place, columns: u32, rows: u32) -> Self {
        let mut script = "#!/bin/sh\nexec env".to_owned();
        for (name, value) in place.command(&[]).as_std().get_envs() {
            if let Some(value) = value {
                let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
                script += &format!(" {name}='{value}'");
            }
        }
        script += &format!(" {PROGRAM} \"$@\"\n");
        super::executable(&place.dir.path().join("s"), &script);
        let tmux = Self {
            socket: place.dir.path().join("tmux"),
            program: "../s".to_owned(),
        };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let workspace = place.workspace.to_string_lossy();
        tmux.run(&[
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &rows,
            "-c",
            &workspace,
            "sh",
        ]);
        tmux
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(arguments)
            .output()
            .expect("tmux is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What is on the screen; a line that was wrapped is one.
    pub fn screen(&self) -> String {
        self.run(&["capture-pane", "-p", "-J"])
    }

    pub fn shows(&self, text: &str) -> bool {
        self.screen().contains(text)
    }

    /// Types a line.
    pub fn kind(&self, line: &str) {
        self.run(&["send-keys", line, "Enter"]);
    }

    /// Presses a key, such as `C-c`.
    pub fn press(&self, key: &str) {
        self.run(&["send-keys", key]);
    }

    /// Presses a key that ends the program, and waits until the shell asks again. What is typed before that may still be
    /// read by the program: one that a signal ends reads what is there until the signal reaches its thread.
    pub async fn end_by(&self, key: &str) {
        self.press(key);
        let asks = || self.screen().trim_end().ends_with(['#', '$']);
        super::eventually("the shell asks again", asks).await;
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the screen:\n{}", self.screen().trim_end());
        }
        self.run(&["kill-server"]);
    }
}
