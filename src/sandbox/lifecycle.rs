//! Booting the sandbox's machine, and telling callers how it ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use snowglobe_runner::DiskFormat;
use tokio::sync::OwnedMutexGuard;

use super::copied::{Refresh, WorkspaceDisk};
use super::guest_tree::Reached;
use super::state::{Event as Change, Layers, Live, LiveCopy, StartPoint, State};
use super::{Sandbox, SandboxError, WORKSPACE, git, images};
use crate::blocking::blocking;
use crate::disk::{Base, CopiedWorkspace, NewDisk, Store, VmDir};
use crate::guest::{Guest, GuestError};
use crate::machine::{CONSOLE_LOG, Machine, MachineError, Parts, Plan};
use crate::progress::Progress;
use crate::timeline::{Event, bounded};
use crate::vmm;

/// How long after the end of its link a VM may still report how it ended.
const END_GRACE: Duration = Duration::from_secs(2);

/// How long a boot looks for newer files of the host.
const NEWER: Duration = Duration::from_secs(3);

impl Sandbox {
    /// Changes the state by the result of a boot: a machine that is up takes the place of the old one.
    pub(super) fn booted(
        &self,
        state: &mut State,
        booted: Result<Live, SandboxError>,
    ) -> Result<Arc<Live>, SandboxError> {
        match self.view.booted(booted) {
            Ok(live) => {
                let live = Arc::new(live);
                self.published.change(state, Change::Booted(live.clone()))?;
                self.note_boot();
                Ok(live)
            }
            Err(error) => {
                self.published.change(state, Change::Failed)?;
                Err(error)
            }
        }
    }

    /// The running machine; boots one when there is none.
    pub(super) async fn live(
        self: &Arc<Self>,
        progress: &Progress,
    ) -> Result<Arc<Live>, SandboxError> {
        if self.stopping.is_cancelled() {
            return Err(SandboxError::Stopped);
        }
        // The boot is a task of its own: other callers still wait for it if this one gives up.
        let (sandbox, progress) = (self.clone(), progress.clone());
        let boot = tokio::spawn(async move {
            let mut state = sandbox.state.clone().lock_owned().await;
            let running = match &*state {
                State::Running(live) => Some(live.clone()),
                State::Stopped => return Err(SandboxError::Stopped),
                State::Off => None,
            };
            if let Some(live) = running {
                let Some(end) = live.machine.vm.end() else {
                    return Ok(live);
                };
                sandbox.published.change(&mut state, Change::Ended)?;
                if !live.told.load(Ordering::Relaxed) {
                    return Err(sandbox.died(&live, &end));
                }
            }
            let from = sandbox
                .config
                .sandbox
                .snapshot
                .clone()
                .map_or(StartPoint::Clean, StartPoint::Configured);
            tokio::select! {
                live = sandbox.boot(from, None, &progress) => sandbox.booted(&mut state, live),
                () = sandbox.stopping.cancelled() => Err(SandboxError::Stopped),
            }
        });
        boot.await.unwrap_or(Err(SandboxError::Stopped))
    }

    /// Boots a machine. `carried` is the frozen disk of a copied workspace, which a machine leaves that it replaces.
    pub(super) async fn boot(
        &self,
        from: StartPoint,
        carried: Option<CopiedWorkspace>,
        progress: &Progress,
    ) -> Result<Live, SandboxError> {
        let (host, spec) = (&self.config.host, &self.config.sandbox);
        let parts = Parts::find(host).await?;
        let saved = match &from {
            StartPoint::Clean => None,
            StartPoint::Configured(name) => {
                let name = name.clone();
                Some(self.on_disk(move |store| store.start(&name)).await?)
            }
            StartPoint::Snapshot(name) => {
                let name = name.clone();
                Some(self.on_disk(move |store| store.get(&name)).await?)
            }
        };
        let (base, layers, image, frozen) = match saved {
            None => {
                let (base, image) = images::of_image(host, spec, progress).await?;
                (base, Vec::new(), image, carried)
            }
            Some(record) => {
                let image = images::hold(host, spec, &record.base).await?;
                let workspace = match &from {
                    StartPoint::Configured(_) => self.configured_workspace(&record).await?,
                    StartPoint::Clean | StartPoint::Snapshot(_) => record.workspace,
                };
                let frozen = workspace.or(carried);
                (record.base, record.layers, image, frozen)
            }
        };
        let git_identity = match spec.git_identity {
            true => git::identity(&spec.project_dir).await,
            false => None,
        };
        let vm_dir = self.on_disk(Store::new_vm).await?;
        let disks = Box::pin(self.disks(&vm_dir, &base, layers, frozen, progress)).await;
        let (disk, workspace_disk) = match disks {
            Ok(disks) => disks,
            Err(error) => {
                blocking(move || vm_dir.give_up()).await;
                return Err(error);
            }
        };
        self.view.booting(vm_dir.path().join(CONSOLE_LOG));
        let workspace = spec.workspace.shared().cloned();
        let repository = spec.workspace.repository().cloned();
        let no_workspace = workspace.is_none() && workspace_disk.is_none();
        let mut env = base.env.clone();
        let given = base.env.iter().chain(&spec.env);
        let given = given.map(|(name, _)| name.as_str()).collect();
        env.extend(self.network.variables(&given));
        env.extend(spec.env.clone());
        let plan = Plan {
            name: "snowglobe".into(),
            cpus: spec.cpus,
            memory_mib: spec.memory_mib,
            disk: disk.file.clone(),
            format: DiskFormat::Qcow2,
            backing: disk.backing,
            workspace_disk: workspace_disk
                .as_ref()
                .map(|made| (made.disk.file.clone(), made.disk.backing.clone())),
            build: false,
            feed: None,
            workspace_path: Some(WORKSPACE.into()),
            nofile: spec.nofile,
            disk_bytes: Some(spec.disk_bytes),
            env,
            image_user: base.user.clone(),
            workdir: base.workdir.clone().filter(|_| no_workspace),
            workspace,
            repository,
            protection: self.protected.now(),
            git_identity,
            login_keys: self.login.iter().map(|keys| keys.user.clone()).collect(),
            host_key: self.login.as_ref().map(|keys| keys.host.clone()),
            run_dir: vm_dir.path().to_owned(),
            link_socket: self.instance.link_socket(),
            network: Some(crate::machine::Network {
                broker: self.network.broker().clone(),
                authorities: self.network.authorities().clone(),
            }),
            remove: vec![disk.file],
            remove_if_orphaned: vec![self.instance.dir.clone()],
            timeout: host.boot_timeout,
        };
        let machine = Machine::boot(&parts, plan, progress).await?;
        self.view
            .runs(parts.engine.to_string(), &machine.vm.missing_fences);
        if let Err(error) = self.set_keys(&machine).await {
            // Its files have to be gone when the caller hears of it.
            machine.stop().await;
            return Err(error);
        }
        let (workspace, refresh) = match workspace_disk {
            Some(made) => (Some(LiveCopy::new(made.copied)), made.refresh),
            None => (None, Refresh::Nothing),
        };
        let live = Live {
            machine,
            vm_dir,
            base,
            layers: Layers::new(disk.layers),
            workspace,
            replaced: OnceLock::new(),
            told: AtomicBool::new(false),
            _image: image,
        };
        if let Err(error) = self.ready_copy(&live, refresh, progress).await {
            live.machine.stop().await;
            return Err(error);
        }
        Ok(live)
    }

    /// Notes the disk of a copied workspace down, and brings in what the host has beyond its base.
    async fn ready_copy(
        &self,
        live: &Live,
        refresh: Refresh,
        progress: &Progress,
    ) -> Result<(), SandboxError> {
        let is_interrupted = live.workspace.as_ref().is_some_and(LiveCopy::is_placing);
        let is_told = matches!(refresh, Refresh::Told);
        if let Refresh::Brought(listing) = refresh {
            progress.say("bringing newer files into the copy of the workspace");
            let guest = live.machine.guest().await?;
            self.bring_in(&Reached { live, guest }, Some(listing))
                .await?;
        }
        if is_interrupted {
            progress.say("bringing newer files into the copy of the workspace again");
            let guest = live.machine.guest().await?;
            self.bring_in_again(&Reached { live, guest }).await?;
        }
        self.note_copy(live, None).await?;
        if is_told {
            self.tell_newer(live).await;
        }
        Ok(())
    }

    /// Says how many of the host's files are newer than a copy that goes on, if that is soon known.
    async fn tell_newer(&self, live: &Live) {
        let count = async {
            let began = self.began(live).await?;
            self.count_newer(&began).await
        };
        match tokio::time::timeout(NEWER, count).await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(count)) => self.view.tell(newer_note(count)),
            Ok(Err(error)) => tracing::warn!("failed to {}", crate::describe(&error)),
        }
    }

    /// The disks of a new machine: the root, and the workspace if that is a copy.
    async fn disks(
        &self,
        vm_dir: &VmDir,
        base: &Base,
        layers: Vec<String>,
        frozen: Option<CopiedWorkspace>,
        progress: &Progress,
    ) -> Result<(NewDisk, Option<WorkspaceDisk>), SandboxError> {
        let (dir, under, steps) = (vm_dir.clone(), base.disk.clone(), progress.clone());
        let made =
            move |store: &Store| store.new_disk(&dir, &[], &under, layers, &|step| steps.say(step));
        let root = self.on_disk(made).await?;
        let owner = base.user.as_ref().map(|user| (user.uid, user.gid));
        let workspace = self.workspace_disk(vm_dir, &root, owner, frozen, progress);
        Ok((root.clone(), workspace.await?))
    }

    fn note_boot(&self) {
        let spec = &self.config.sandbox;
        self.timeline.add(Event::Booted {
            engine: self.history().engine.unwrap_or_default(),
            image: spec.image.clone(),
            workspace: spec.workspace.mode(),
        });
    }

    /// Writes the keys that other programs need to join this machine.
    pub(super) async fn set_keys(&self, machine: &Machine) -> Result<(), SandboxError> {
        let (instance, keys) = (self.instance.clone(), machine.keys.clone());
        Ok(blocking(move || instance.set_keys(&keys)).await?)
    }

    /// The error for the call that finds the VM ended.
    pub(super) fn died(&self, live: &Live, end: &vmm::VmEnd) -> SandboxError {
        live.told.store(true, Ordering::Relaxed);
        self.view.died(&end.to_string());
        let how = bounded(&end.to_string());
        self.timeline.add(Event::Ended { how });
        SandboxError::Died(end.to_string())
    }

    /// The error for a call that a broken guest link ended.
    pub(super) async fn explain(&self, live: &Live, error: GuestError) -> SandboxError {
        if !error.is_lost() {
            return error.into();
        }
        let end = tokio::time::timeout(END_GRACE, live.machine.vm.ended()).await;
        if let Some(what) = live.replaced.get() {
            return SandboxError::Replaced(what);
        }
        match end {
            _ if self.stopping.is_cancelled() => SandboxError::Stopped,
            Ok(end) => self.died(live, &end),
            Err(_) if matches!(error, GuestError::Lost) => SandboxError::LinkBroke,
            Err(_) => error.into(),
        }
    }

    pub(super) async fn ready(
        self: &Arc<Self>,
        progress: &Progress,
    ) -> Result<(Arc<Live>, Arc<Guest>), SandboxError> {
        let live = self.live(progress).await?;
        let guest = self.guest_of(&live).await?;
        Ok((live, guest))
    }

    /// A machine's guest.
    pub(super) async fn guest_of(&self, live: &Live) -> Result<Arc<Guest>, SandboxError> {
        match live.machine.guest().await {
            Err(MachineError::Guest(error)) => Err(self.explain(live, error).await),
            Err(MachineError::Ended(end)) => Err(self.died(live, &end)),
            other => Ok(other?),
        }
    }

    /// Waits for an answer of the guest; not while the VM stands still for want of room.
    pub(super) async fn answer<T>(
        &self,
        live: &Live,
        answer: impl Future<Output = Result<T, GuestError>>,
    ) -> Result<T, SandboxError> {
        tokio::select! {
            answer = answer => match answer {
                Ok(answer) => Ok(answer),
                Err(error) => Err(self.explain(live, error).await),
            },
            // A VM that stands still does not answer.
            reason = live.machine.vm.stalled() => Err(SandboxError::Stalled(reason)),
        }
    }

    /// Locks the state; fails if the sandbox is stopped meanwhile.
    pub(super) async fn lock(&self) -> Result<OwnedMutexGuard<State>, SandboxError> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(SandboxError::Stopped),
            state = self.state.clone().lock_owned() => Ok(state),
        }
    }

    /// Does work under the state's lock; gives up if the sandbox is stopped meanwhile.
    pub(super) async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, SandboxError>>,
    ) -> Result<T, SandboxError> {
        let done = self.stopping.run_until_cancelled(work).await;
        done.unwrap_or(Err(SandboxError::Stopped))
    }

    /// The guest; boots if necessary.
    pub async fn guest(self: &Arc<Self>, progress: &Progress) -> Result<Arc<Guest>, SandboxError> {
        Ok(self.ready(progress).await?.1)
    }
}

/// What is said where the host has newer files than the copy.
fn newer_note(count: usize) -> String {
    let files = match count {
        1 => "1 file of the host is newer than the copy of the workspace".to_owned(),
        count => format!("{count} files of the host are newer than the copy of the workspace"),
    };
    format!("{files}; `snowglobe sync`, or the tool `changes` with `sync`, brings them in")
}
