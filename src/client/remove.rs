//! Removing what remains of sandboxes.

use std::fs::File;
use std::io;
use std::path::Path;

use super::ClientError;
use crate::disk::Store;
use crate::login::Login;
use crate::names::SandboxName;
use crate::{files, logs};

/// Removes the store, the logs and the SSH hosts of a sandbox that does not run, and whose start is locked; false if a
/// machine uses the store. With `orphan`, only if its directories are gone.
pub(crate) fn remove_data(
    data_dir: &Path,
    name: &SandboxName,
    starting: File,
    orphan: bool,
) -> Result<bool, ClientError> {
    if !Store::remove(data_dir, name, orphan)? {
        return Ok(false);
    }
    remove_files(data_dir, name, starting)?;
    Ok(true)
}

/// Removes the logs and the SSH hosts of a sandbox that has no store; a store that came meanwhile keeps them.
pub(crate) fn remove_stale(
    data_dir: &Path,
    name: &SandboxName,
    starting: File,
) -> Result<(), ClientError> {
    match Store::is_there(data_dir, name)? {
        true => Ok(()),
        false => remove_files(data_dir, name, starting),
    }
}

fn remove_files(data_dir: &Path, name: &SandboxName, starting: File) -> Result<(), ClientError> {
    let login = Login::of(data_dir);
    let fail = |source: io::Error| ClientError::Start {
        operation: format!(
            "remove the SSH hosts of {name} in {}",
            login.dir().display()
        ),
        source,
    };
    login.remove(name).map_err(fail)?;
    let dir = logs::dir(data_dir);
    let fail = |source: io::Error| ClientError::Start {
        operation: format!("remove the logs of {name} in {}", dir.display()),
        source,
    };
    let (mut own, mut lock) = (Vec::new(), None);
    for file in files::list(&dir).map_err(fail)? {
        let path = dir.join(&file);
        if path == logs::lock(data_dir, name) {
            lock = Some(path);
        } else if logs::sandbox_of(&file) == Some(name.as_str()) {
            own.push(path);
        }
    }
    // The lock last: a process that takes a new lock finds no old log.
    for path in own.into_iter().chain(lock) {
        files::remove_file(&path).map_err(fail)?;
    }
    drop(starting);
    Ok(())
}
