//! Booting the sandbox's machine, and telling callers how it ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use snowglobe_runner::DiskFormat;
use tokio::sync::OwnedMutexGuard;

use super::state::{Event, Live, StartPoint, State};
use super::{Sandbox, SandboxError, WORKSPACE, git, images};
use crate::blocking::blocking;
use crate::guest::{Guest, GuestError};
use crate::machine::{CONSOLE_LOG, Machine, MachineError, Parts, Plan};
use crate::progress::Progress;
use crate::vmm;

/// How long after the end of its link a VM may still report how it ended.
const END_GRACE: Duration = Duration::from_secs(2);

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
                self.published.change(state, Event::Booted(live.clone()))?;
                Ok(live)
            }
            Err(error) => {
                self.published.change(state, Event::Failed)?;
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
                sandbox.published.change(&mut state, Event::Ended)?;
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
                live = sandbox.boot(from, &progress) => sandbox.booted(&mut state, live),
                () = sandbox.stopping.cancelled() => Err(SandboxError::Stopped),
            }
        });
        boot.await.unwrap_or(Err(SandboxError::Stopped))
    }

    pub(super) async fn boot(
        &self,
        from: StartPoint,
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
        let (base, layers, image) = match saved {
            None => {
                let (base, image) = images::of_image(host, spec, progress).await?;
                (base, Vec::new(), image)
            }
            Some(record) => {
                let image = images::hold(host, spec, &record.base).await?;
                (record.base, record.layers, image)
            }
        };
        let git_identity = match spec.git_identity {
            true => git::identity(&spec.project_dir).await,
            false => None,
        };
        let (under, steps) = (base.clone(), progress.clone());
        let disk = self
            .on_disk(move |store| store.new_disk(&under, layers, &|step| steps.say(step)))
            .await?;
        self.view.booting(disk.vm_dir.path().join(CONSOLE_LOG));
        let workspace = spec.workspace.shared().cloned();
        let repository = spec.workspace.repository().cloned();
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
            build: false,
            feed: None,
            workspace_path: Some(WORKSPACE.into()),
            nofile: spec.nofile,
            disk_bytes: Some(spec.disk_bytes),
            env,
            image_user: base.user.clone(),
            workdir: base.workdir.clone().filter(|_| workspace.is_none()),
            workspace,
            repository,
            protection: self.protected.now(),
            git_identity,
            login_keys: self.login.iter().map(|keys| keys.user.clone()).collect(),
            host_key: self.login.as_ref().map(|keys| keys.host.clone()),
            run_dir: disk.vm_dir.path().to_owned(),
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
        Ok(Live {
            machine,
            vm_dir: disk.vm_dir,
            base,
            layers: Mutex::new(disk.layers),
            replaced: OnceLock::new(),
            told: AtomicBool::new(false),
            _image: image,
        })
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
