//! The host: QEMU with the guest, a broker, and a server outside that both it and the network card reach.

use std::io::{BufRead, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cpio::newc::{Builder, ModeFileType, trailer};
use snowglobe::network::broker::{Broker, Settings};
use snowglobe::network::hosts::Hosts;
use snowglobe::network::rules::{Mode, Rules};
use snowglobe::vmm::artefacts;
use snowglobe_init::streams::{self, Bounds, Side, Stream, Streams};
use snowglobe_init::wire::network::{BEGINNING, FromHost, STREAMS_NAME};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::guest::{ASKED, Ask, CLOSED, OWN_SERVER, SERVER, Told};
use super::load::{self, Load, Measured};

/// How the bytes go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// TUN device, streams, broker.
    Broker = 0,
    /// A stream to a port of the guest.
    Raw = 1,
    /// A network card.
    Card = 2,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Broker, Self::Raw, Self::Card];
}

/// The running machine. It ends when this is dropped.
pub(crate) struct Machine {
    qemu: Child,
    outside: Child,
    port: u16,
    streams: Streams,
    asking: BufReader<Stream>,
    _dir: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in [&mut self.qemu, &mut self.outside] {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The server outside, a process of its own: its memory is not the broker's.
pub(crate) fn serve_outside() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let mut out = std::io::stdout();
        writeln!(out, "{}", listener.local_addr()?.port())?;
        out.flush()?;
        Ok(load::serve(listener).await?)
    })
}

impl Machine {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (outside, port) = start_outside()?;
        let socket = dir.path().join("streams");
        let qemu = start_qemu(dir.path(), &socket)?;
        let transport = connect(&socket).await?;
        let mut transport = snowglobe::guest::synchronize(transport).await?;
        transport.write_all(BEGINNING).await?;
        let bounds = Bounds { streams: 512 };
        let (streams, asked, served) = streams::over(transport, Side::Host, bounds);
        tokio::spawn(served);
        tokio::spawn(broker(port)?.serve(asked));
        start_egress(&streams).await?;
        let asking = BufReader::new(reach(&streams, ASKED).await?);
        Ok(Self {
            qemu,
            outside,
            port,
            streams,
            asking,
            _dir: dir,
        })
    }

    /// How long the processors have worked for QEMU and for this process, which has the broker.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        let qemu = processor_time(&self.qemu.id().to_string())?;
        Ok(qemu + processor_time("self")?)
    }

    /// Where the guest finds the server outside.
    fn server(&self, way: Way) -> String {
        match way {
            Way::Card => format!("10.0.2.2:{}", self.port),
            _ => SERVER.to_owned(),
        }
    }

    pub(crate) async fn measure(&mut self, way: Way, load: Load) -> anyhow::Result<Measured> {
        if let Way::Raw = way {
            let streams = self.streams.clone();
            let connect = move || {
                let streams = streams.clone();
                async move { reach(&streams, OWN_SERVER).await }
            };
            // The host is the client here, so the directions are the other way round.
            let load = match load {
                Load::Down(bytes) => Load::Up(bytes),
                Load::Up(bytes) => Load::Down(bytes),
                load => load,
            };
            return load::measure(connect, load).await;
        }
        match self.ask(&Ask::Measure(self.server(way), load)).await? {
            Told::Measured(measured) => Ok(measured),
            told => anyhow::bail!("{told:?}"),
        }
    }

    pub(crate) async fn hold(&mut self, way: Way, count: usize) -> anyhow::Result<()> {
        self.ask(&Ask::Hold(self.server(way), count))
            .await
            .map(drop)
    }

    pub(crate) async fn release(&mut self) -> anyhow::Result<()> {
        self.ask(&Ask::Release).await.map(drop)
    }

    /// The memory that the guest and its PID 1 use, in kB.
    pub(crate) async fn used(&mut self) -> anyhow::Result<(i64, i64)> {
        match self.ask(&Ask::Used).await? {
            Told::Used(guest, init) => Ok((guest, init)),
            told => anyhow::bail!("{told:?}"),
        }
    }

    pub(crate) async fn ask(&mut self, ask: &Ask) -> anyhow::Result<Told> {
        let line = serde_json::to_string(ask)? + "\n";
        self.asking.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        let read =
            tokio::time::timeout(Duration::from_secs(120), self.asking.read_line(&mut answer));
        read.await.with_context(|| format!("{ask:?}"))??;
        serde_json::from_str(&answer).with_context(|| answer.clone())
    }
}

/// The time of a process in user mode and in the kernel.
fn processor_time(process: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("it has a name")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(str::parse::<u64>).sum::<Result<_, _>>()?;
    // Linux counts in hundredths of a second here, on every machine.
    Ok(Duration::from_millis(ticks * 10))
}

fn start_outside() -> anyhow::Result<(Child, u16)> {
    let mut outside = Command::new(std::env::current_exe()?)
        .arg("serve")
        .stdout(Stdio::piped())
        .spawn()?;
    let out = outside.stdout.take().context("it is piped")?;
    let mut line = String::new();
    std::io::BufReader::new(out).read_line(&mut line)?;
    Ok((outside, line.trim().parse()?))
}

/// QEMU as the runner starts it, with a network card more. The user network needs sockets of its own, which the fences of
/// a sandbox forbid, so there are none here.
fn start_qemu(dir: &Path, socket: &Path) -> anyhow::Result<Child> {
    let strategy = std::env::var_os("SNOWGLOBE_CACHE_DIR");
    let cache = strategy.map_or_else(|| dir.join("cache"), PathBuf::from);
    let kernel = artefacts::kernel(&cache)?;
    let initramfs = dir.join("initramfs.cpio");
    write_initramfs(&initramfs)?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ])
    .args([
        "-machine",
        "microvm,acpi=off,pcie=off,usb=off,rtc=on,x-option-roms=off,memory-backend=mem",
    ])
    .args(["-object", "memory-backend-memfd,id=mem,size=1024M,share=on"])
    .args([
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-m",
        "1024M",
        "-smp",
        "2",
    ])
    .args([
        "-append",
        "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 rdinit=/init acpi=off pci=off noreplace-smp tsc=reliable",
    ])
    .arg("-kernel")
    .arg(kernel)
    .arg("-initrd")
    .arg(initramfs)
    .arg("-serial")
    .arg(format!("file:{}", dir.join("console").display()))
    .args(["-device", "virtio-serial-device", "-chardev"])
    .arg(format!(
        "socket,id=streams,path={},server=on,wait=off",
        socket.display()
    ))
    .arg("-device")
    .arg(format!(
        "virtserialport,chardev=streams,name={STREAMS_NAME}"
    ))
    .args([
        "-netdev",
        "user,id=card",
        "-device",
        "virtio-net-device,netdev=card",
    ]);
    Ok(qemu.stdin(Stdio::null()).spawn()?)
}

/// This program as PID 1, with its libraries.
fn write_initramfs(path: &Path) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let libraries = Command::new("ldd").arg(&own).output()?;
    ensure!(
        libraries.status.success(),
        "ldd lists the program's libraries"
    );
    let libraries = String::from_utf8(libraries.stdout)?;
    let mut files = vec![("init".to_owned(), own)];
    for library in libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        files.push((library.trim_start_matches('/').to_owned(), library.into()));
    }
    let mut directories = std::collections::BTreeSet::new();
    let mut places: Vec<PathBuf> = ["dev", "proc", "sys"].map(PathBuf::from).into();
    places.extend(
        files
            .iter()
            .filter_map(|(name, _)| Some(Path::new(name).parent()?.to_owned())),
    );
    for place in places {
        let above = place
            .ancestors()
            .filter(|above| !above.as_os_str().is_empty());
        directories.extend(above.map(Path::to_owned));
    }
    let mut archive = std::io::BufWriter::new(std::fs::File::create(path)?);
    // Sorted: each one comes after what it is in.
    for directory in directories {
        let name = directory.to_string_lossy().into_owned();
        archive = entry(archive, &name, ModeFileType::Directory, &[])?;
    }
    for (name, file) in files {
        archive = entry(archive, &name, ModeFileType::Regular, &std::fs::read(file)?)?;
    }
    trailer(archive)?.flush()?;
    Ok(())
}

fn entry<W: std::io::Write>(
    archive: W,
    name: &str,
    kind: ModeFileType,
    data: &[u8],
) -> anyhow::Result<W> {
    let builder = Builder::new(name)
        .mode(0o755)
        .set_mode_file_type(kind)
        .nlink(1);
    let mut writer = builder.write(archive, u32::try_from(data.len())?);
    writer.write_all(data)?;
    Ok(writer.finish()?)
}

async fn connect(socket: &Path) -> anyhow::Result<tokio::net::UnixStream> {
    for _ in 0..200 {
        if let Ok(stream) = tokio::net::UnixStream::connect(socket).await {
            return Ok(stream);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("QEMU makes no socket")
}

/// A broker that allows the server outside.
fn broker(port: u16) -> anyhow::Result<Arc<Broker>> {
    // Nothing listens on a port that was free a moment ago.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let (server, closed) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{closed}"));
    let hosts = [(SERVER, server.as_str()), (CLOSED, closed.as_str())];
    let settings = Settings {
        hosts: Hosts::new(hosts)?,
        ..Settings::default()
    };
    let rules = Rules::new(Mode::List, [SERVER, CLOSED], [])?;
    Ok(Arc::new(Broker::new(settings, Arc::new(rules))))
}

async fn start_egress(streams: &Streams) -> anyhow::Result<()> {
    let request = serde_json::to_vec(&FromHost::Egress)?;
    let (mut stream, _) = streams.open(request).await?;
    stream.shutdown().await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn reach(streams: &Streams, port: u16) -> anyhow::Result<Stream> {
    let request = serde_json::to_vec(&FromHost::Reach { port })?;
    // The guest may still start.
    for _ in 0..100 {
        if let Ok((stream, _)) = streams.open(request.clone()).await {
            return Ok(stream);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("port {port} of the guest is not reached")
}
