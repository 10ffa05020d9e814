//! File work with a user's own permissions, without a process per request.
//!
//! On Linux credentials belong to threads. An [`Actor`] is a thread that gave up root's and took on a user's:
//! the kernel then checks every path for it. It never gets its old ones back, so nothing leaks between users.

use std::io;
use std::sync::mpsc;

use rustix::process::{Gid, Uid};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Who an actor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread with a user's credentials.
#[derive(Debug)]
pub struct Actor {
    jobs: mpsc::Sender<Job>,
}

/// Gives up this thread's credentials for those of `to`; root stays root.
pub(crate) fn become_user(to: &Credentials) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
    let groups: Vec<Gid> = to.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

impl Actor {
    /// Starts the thread. Without credentials it stays who this process is.
    pub fn start(credentials: Option<Credentials>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (sender, ready) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("actor".into())
            .spawn(move || {
                let became = credentials.as_ref().map_or(Ok(()), become_user);
                let failed = became.is_err();
                let _ = sender.send(became);
                if failed {
                    return;
                }
                while let Ok(job) = queue.recv() {
                    // A job that panics must not take the thread, and with it every later request, down.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                }
            })?;
        ready
            .recv()
            .map_err(|_| io::Error::other("the actor's thread ended"))??;
        Ok(Self { jobs })
    }

    /// Runs a job on the thread; jobs run one after the other.
    ///
    /// # Panics
    ///
    /// If the job does.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = oneshot::channel();
        let _ = self.jobs.send(Box::new(move || drop(sender.send(job()))));
        match receiver.await {
            Ok(value) => value,
            // There is no value to give, and the caller's request fails the same way.
            Err(_) => panic!("a file job panicked"),
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
        let user = Actor::start(Some(user)).unwrap();
        let path = secret.clone();
        let denied = user
            .run(move || std::fs::read(path).map_err(|e| e.kind()))
            .await;
        assert_eq!(denied, Err(io::ErrorKind::PermissionDenied));
        assert!(std::fs::read(&secret).is_ok());
    }
}
