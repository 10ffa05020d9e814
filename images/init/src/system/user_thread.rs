//! File work with a user's own permissions, without a process per request.
//!
//! On Linux credentials belong to threads. A [`UserThread`] has given up root's credentials for a user's, so the kernel
//! checks every path for that user. It never gets root's credentials back, so nothing leaks between users.

use std::io;
use std::sync::mpsc;

use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// The user and groups of a process or a thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Credentials {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Further groups.
    pub(crate) groups: Vec<u32>,
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread with a user's credentials.
#[derive(Debug)]
pub(crate) struct UserThread {
    jobs: mpsc::Sender<Job>,
}

/// Changes this thread's credentials. Nothing needs a permission if it has them already.
pub(crate) fn become_user(to: &Credentials) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
    let groups: Vec<Gid> = to.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let now = (rustix::process::geteuid(), rustix::process::getegid());
    let listed = |known: Vec<Gid>| known.iter().all(|gid| groups.contains(gid));
    if now == (uid, gid) && rustix::process::getgroups().is_ok_and(listed) {
        return Ok(());
    }
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

impl UserThread {
    /// Starts a thread with these credentials; without, it keeps those of this process.
    pub(crate) fn start(credentials: Option<Credentials>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (sender, ready) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("user".into())
            .spawn(move || {
                let became = credentials.as_ref().map_or(Ok(()), become_user);
                let failed = became.is_err();
                if sender.send(became).is_err() || failed {
                    return;
                }
                while let Ok(job) = queue.recv() {
                    // A job that panics must not end the thread, and with it every later request. Its caller panics, too.
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).ok();
                }
            })?;
        ready
            .recv()
            .map_err(|_| io::Error::other("the user's thread ended"))??;
        Ok(Self { jobs })
    }

    /// Runs a job on the thread. Jobs run one after the other.
    ///
    /// # Panics
    ///
    /// If the job panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (sender, receiver) = oneshot::channel();
        let job = Box::new(move || drop(sender.send(job())));
        match (self.jobs.send(job), receiver.await) {
            (Ok(()), Ok(value)) => value,
            // There is no value to return; the caller's request fails in the same way.
            _ => panic!("a file job panicked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn the_kernel_checks_paths_for_the_user() {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test changes credentials: run it as root"
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let user = Credentials {
            uid: 1000,
            gid: 1000,
            groups: vec![],
        };
        let user = UserThread::start(Some(user)).unwrap();
        let path = secret.clone();
        let denied = user
            .run(move || std::fs::read(path).map_err(|e| e.kind()))
            .await;
        assert_eq!(denied, Err(io::ErrorKind::PermissionDenied));
        assert!(std::fs::read(&secret).is_ok());
    }
}
