//! Calls at the same time, with real stores and directories. Nothing boots.

use futures_util::FutureExt as _;
use futures_util::future::join_all;

use super::*;
use crate::config::{Raw, Sources};

const IDLE: Duration = Duration::from_secs(3600);

/// A fleet with directories of its own.
pub(crate) struct Home {
    dir: tempfile::TempDir,
    pub(crate) fleet: Arc<Fleet>,
}

impl Home {
    pub(crate) async fn new(sandboxes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workspace = dir.path().join("workspace");
        std::fs::create_dir(&workspace).unwrap();
        let runtime = dir.path().join("run").to_str().unwrap().to_owned();
        let config = Config::load(Sources {
            cwd: workspace,
            env: vec![("SNOWGLOBE_RUNTIME_DIR".to_owned(), runtime)],
            flags: Raw {
                data_dir: Some(dir.path().join("data")),
                ..Raw::default()
            },
            ..Sources::default()
        });
        let limits = Limits {
            sandboxes,
            idle: IDLE,
        };
        let fleet = Fleet::new(config.unwrap(), limits, CancellationToken::new()).await;
        Self { dir, fleet }
    }

    /// How many stores of sessions, and how many directories of sandboxes, are on the disk.
    fn on_disk(&self) -> (usize, usize) {
        let names = |path: &str| {
            let entries = std::fs::read_dir(self.dir.path().join(path));
            let entries = entries.into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().into_string().unwrap());
            names.collect::<Vec<_>>()
        };
        let stores = names("data/sandboxes");
        let stores = stores.iter().filter(|name| name.contains('@')).count();
        (stores, names("run").len())
    }

    /// Stops the sandbox of a handle as if it had been idle.
    async fn stop_idle(&self, handle: &str) {
        let later = Instant::now() + IDLE;
        let idle = self.fleet.table().check_idle(later, IDLE);
        for idle in idle.into_iter().filter(|idle| idle.handle == handle) {
            self.fleet.stop_if_idle(idle).await;
        }
        assert!(self.fleet.peek(handle).is_none(), "it is stopped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_the_same_time_never_make_too_many_and_share_one_sandbox_of_a_handle() {
    let home = Home::new(2).await;
    let fleet = &home.fleet;
    let all = join_all((0..8).map(|_| fleet.lease_new(None))).await;
    let (made, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), fleet.count(), home.on_disk()), (2, 2, (2, 2)));
    for refused in refused {
        assert!(matches!(
            refused.err(),
            Some(FleetError::Full { limit: 2, .. })
        ));
    }
    let handles: Vec<String> = made
        .iter()
        .map(|lease| lease.as_ref().unwrap().handle().to_owned())
        .collect();
    drop(made);
    home.stop_idle(&handles[0]).await;
    assert_eq!(home.on_disk(), (2, 1), "its snapshots are kept");
    let again = join_all((0..8).map(|_| fleet.lease(&handles[0]))).await;
    let again: Vec<Lease> = again.into_iter().map(Result::unwrap).collect();
    for lease in &again {
        assert!(Arc::ptr_eq(&lease.sandbox, &again[0].sandbox));
    }
    assert_eq!((fleet.count(), home.on_disk()), (2, (2, 2)));
    let unknown = fleet.lease("sb-none").await;
    assert!(matches!(unknown.err(), Some(FleetError::Unknown { .. })));
    drop(again);
    fleet.stop().await;
    assert_eq!((fleet.count(), home.on_disk()), (0, (0, 0)));
    let closed = fleet.lease_new(None).await;
    let closed = closed.err();
    assert!(
        matches!(closed, Some(FleetError::Sandbox(SandboxError::Stopped))),
        "{closed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_gives_its_place_back_and_leaves_nothing() {
    let home = Home::new(1).await;
    let fleet = &home.fleet;
    let kept = fleet.lease_new(None).await.unwrap().handle().to_owned();
    home.stop_idle(&kept).await;
    for _ in 0..20 {
        // Polled once and dropped: the disk work has begun, and nobody waits for it.
        drop(fleet.lease(&kept).now_or_never());
        let waits = fleet.lease(&kept).await;
        assert!(waits.is_ok(), "the next call makes the sandbox");
        drop(waits);
        home.stop_idle(&kept).await;
        if let Some(Ok(quick)) = fleet.lease_new(None).now_or_never() {
            fleet.close(quick.handle());
        }
        let freed = async {
            while fleet.count() > 0 || home.on_disk() != (1, 0) {
                tokio::task::yield_now().await;
            }
        };
        let freed = tokio::time::timeout(Duration::from_secs(60), freed).await;
        assert!(freed.is_ok(), "{} {:?}", fleet.count(), home.on_disk());
    }
    // A slot that is closed while its sandbox is made gets none.
    drop(fleet.lease(&kept).now_or_never());
    fleet.close(&kept);
    fleet.stop().await;
    assert_eq!(fleet.count(), 0);
}
