//! PID 1 of every Snowglobe guest, and the program that it starts before every command.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::cast_possible_truncation,
        clippy::let_underscore_must_use,
        reason = "a test fails by panicking"
    )
)]
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snowglobe_init::boot::{BOOT_CONFIG_PATH, BUILD_ROOT, BootConfig, Link, Root};
use snowglobe_init::command::cgroup::Cgroups;
use snowglobe_init::command::enter;
use snowglobe_init::command::reaper::Reaper;
use snowglobe_init::network::Network;
use snowglobe_init::server::{self, Server, Setup};
use snowglobe_init::wire::network::{BEGINNING, STREAMS_NAME, STREAMS_PORT};
use snowglobe_init::{link, share, system};

fn main() {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if name.as_encoded_bytes().ends_with(enter::ARG0.as_bytes()) {
        let arguments: Vec<OsString> = arguments.collect();
        std::process::exit(enter::main(&arguments));
    }
    if !rustix::process::getpid().is_init() {
        let arguments: Vec<String> = arguments
            .filter_map(|word| word.into_string().ok())
            .collect();
        if let [verb, port, path] = &arguments[..]
            && verb == "mount"
        {
            std::process::exit(mount(port, path));
        }
        let text = "snowglobe-init: this is PID 1 of a Snowglobe guest; anywhere else it only mounts a share: \
                    snowglobe-init mount PORT PATH\n";
        // Nobody is told if standard error can't take it.
        std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).ok();
        std::process::exit(2);
    }
    let failed = match run() {
        Ok(()) => "serve the guest link: it ended".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    // Best effort: without a console nothing can be reported.
    std::fs::write(
        "/dev/console",
        format!("snowglobe-init: failed to {failed}\n"),
    )
    .ok();
    system::power_off();
}

/// Mounts the share of a virtio-serial port, for as long as it lasts.
fn mount(port: &str, path: &str) -> i32 {
    let link = Link::VirtioSerial {
        name: port.to_owned(),
    };
    match share::mount_share(&link, port, Path::new(path)) {
        Ok(carriers) => {
            carriers.join();
            0
        }
        Err(error) => {
            let text = format!("snowglobe-init: mount {path}: {error}\n");
            // Nobody is told if standard error can't take it.
            std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).ok();
            1
        }
    }
}

fn run() -> anyhow::Result<()> {
    system::note_start();
    system::mount_system()?;
    system::stage("configuration");
    let config = read_config()?;
    system::set_up(&config)?;
    let build_root = mount_root(&config)?;
    system::stage("server");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(config, build_root))
}

fn read_config() -> anyhow::Result<BootConfig> {
    use anyhow::Context;
    let text = std::fs::read(BOOT_CONFIG_PATH).context("read the boot configuration")?;
    // The file holds a private key.
    std::fs::remove_file(BOOT_CONFIG_PATH).context("remove the boot configuration")?;
    serde_json::from_slice(&text).context("understand the boot configuration")
}

/// Mounts the root disk. Returns its mount point if this guest builds an image.
fn mount_root(config: &BootConfig) -> anyhow::Result<Option<PathBuf>> {
    system::stage("root disk");
    match &config.root {
        Root::Build { device } => {
            system::mount_disk(device, BUILD_ROOT)?;
            Ok(Some(BUILD_ROOT.into()))
        }
        Root::Disk { device } => {
            system::mount_disk(device, BUILD_ROOT)?;
            system::switch_root(BUILD_ROOT)?;
            if let Some(limit) = config.disk_bytes {
                system::limit_disk(device, "/", limit)?;
            }
            system::stage("workspace");
            system::prepare_root(config)?;
            Ok(None)
        }
    }
}

async fn serve(config: BootConfig, build_root: Option<PathBuf>) -> anyhow::Result<()> {
    let workspace_survives = config
        .workspace
        .as_ref()
        .is_some_and(|workspace| workspace.disk.is_some());
    let workspace: PathBuf = config
        .workspace
        .map_or_else(|| "/".into(), |workspace| workspace.path.into());
    let cgroups = Cgroups::create(Path::new("/sys/fs/cgroup"), Reaper::start()?)?;
    let server = Server::new(Setup {
        root: "/".into(),
        workdir: config
            .workdir
            .map_or_else(|| workspace.clone(), PathBuf::from),
        workspace,
        workspace_survives,
        state: "/run/snowglobe".into(),
        enter: "/proc/self/exe".into(),
        supervisor: Arc::new(cgroups),
        nofile: config.nofile,
        env: config.env,
        build_root,
        image_user: config.image_user,
        host_key: config.host_key,
        control_keys: config.control_keys,
        login_keys: config.login_keys,
    })?;
    system::stage("link");
    let session = move |stream: Box<dyn link::Stream>| {
        let server = server.clone();
        async move {
            if let Err(error) = server::serve(stream, server).await {
                tracing::debug!(%error, "the host's connection ended");
            }
        }
    };
    let network = Arc::new(Network::default());
    tokio::spawn(network.clone().serve_resolver());
    tokio::spawn(serve_streams(config.link.clone(), network));
    match config.link {
        Link::VirtioSerial { name } => {
            link::serve_port(&link::find_port(&name)?, link::SSH, session).await?
        }
        Link::Vsock { port } => link::serve_vsock(port, link::SSH, session).await?,
    }
    Ok(())
}

/// Serves the streams beside the guest link. A machine that was started without their port has none.
async fn serve_streams(link: Link, network: Arc<Network>) {
    let session = move |stream: Box<dyn link::Stream>| network.clone().serve(stream);
    let served = match link {
        Link::VirtioSerial { .. } => match link::find_port(STREAMS_NAME) {
            Ok(path) => link::serve_port(&path, BEGINNING, session).await,
            Err(error) => Err(error),
        },
        Link::Vsock { .. } => link::serve_vsock(STREAMS_PORT, BEGINNING, session).await,
    };
    if let Err(error) = served {
        tracing::debug!(%error, "the streams are not served");
    }
}
