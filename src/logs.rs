//! The files that remain of a sandbox's processes: `<data>/logs/NAME.log`, and the console of its last machine.

use std::path::{Path, PathBuf};

use crate::names::SandboxName;

/// What comes after the sandbox's name in each file's name. The longer endings first.
const ENDINGS: [&str; 5] = [".console.new", ".log.old", ".log", ".lock", ".console"];

/// The directory of all logs.
pub(crate) fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("logs")
}

/// The log of a sandbox's processes.
pub(crate) fn log(data_dir: &Path, name: &SandboxName) -> PathBuf {
    dir(data_dir).join(format!("{name}.log"))
}

/// The lock of the process that starts or removes a sandbox.
pub(crate) fn lock(data_dir: &Path, name: &SandboxName) -> PathBuf {
    dir(data_dir).join(format!("{name}.lock"))
}

/// The console of a sandbox's newest machine.
pub(crate) fn console(data_dir: &Path, name: &SandboxName) -> PathBuf {
    dir(data_dir).join(format!("{name}.console"))
}

/// The name of the sandbox that a file of this name belongs to.
pub(crate) fn sandbox_of(file: &str) -> Option<&str> {
    ENDINGS.iter().find_map(|ending| file.strip_suffix(ending))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_file_belongs_to_one_sandbox(name in "[a-z.]{1,9}(\\.log|\\.old|\\.console|\\.new|\\.lock)?") {
            prop_assume!(name.parse::<SandboxName>().is_ok());
            let sandbox: SandboxName = name.parse().unwrap();
            let data = Path::new("/data");
            let old = log(data, &sandbox).with_extension("log.old");
            for file in [log(data, &sandbox), old, lock(data, &sandbox), console(data, &sandbox)] {
                let file = file.file_name().unwrap().to_str().unwrap();
                prop_assert_eq!(sandbox_of(file), Some(name.as_str()));
            }
        }
    }
}
