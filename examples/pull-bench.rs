//! Measures images: the time from a registry to the first prompt, with and without a cache, compared with `skopeo copy`
//! and `umoci unpack` of the same image in the same run; and the disk space of one more VM.
//!
//!     cargo run --release --example pull-bench
//!
//! Needs root, because of umoci, and the packages that `.ci/setup` installs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "an example ends by panicking"
)]
#![allow(unreachable_pub, dead_code, reason = "shares modules with the tests")]

#[path = "../tests/integration/images/layout.rs"]
mod layout;
#[path = "../tests/integration/images/registry.rs"]
mod registry;

mod home {
    use std::process::Command;

    pub fn tool(name: &str, arguments: &[&str]) -> String {
        let output = Command::new(name).args(arguments).output();
        let output = output.unwrap_or_else(|e| panic!("{name}: {e}; run .ci/setup"));
        assert!(
            output.status.success(),
            "{name} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use home::tool;
use layout::{Packed, noise};
use registry::{Registry, Wish};

/// The number of measurements. The best is shown, since a busy machine affects it least.
const ROUNDS: usize = 3;

struct Bench {
    dir: tempfile::TempDir,
    program: PathBuf,
}

impl Bench {
    fn path(&self, part: &str) -> String {
        self.dir.path().join(part).display().to_string()
    }

    fn command(&self, data: &str, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(self.path("workspace"))
            .env("SNOWGLOBE_DATA_DIR", self.path(data))
            .env("SNOWGLOBE_RUNTIME_DIR", self.path("runtime"))
            .env("SNOWGLOBE_NAME", name)
            .env("SNOWGLOBE_MEMORY_MIB", "512")
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn prompt(&self, data: &str, image: &str) -> Duration {
        timed(|| {
            let done = self
                .command(
                    data,
                    "bench",
                    &["exec", "--image", image, "--", "echo ready"],
                )
                .output()
                .unwrap();
            assert_eq!(
                done.stdout, b"ready\n",
                "run it by hand: snowglobe exec --image {image} -- echo ready"
            );
        })
    }

    fn clear(&self, part: &str) {
        let _ = std::fs::remove_dir_all(self.path(part));
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn best(mut work: impl FnMut() -> Duration) -> String {
    let best = (0..ROUNDS).map(|_| work()).min().unwrap_or_default();
    format!("{:>8.2} s", best.as_secs_f64())
}

/// Files of all sizes; half of their content is compressible.
fn userland(megabytes: usize) -> Vec<(Vec<u8>, Packed)> {
    let mut layers = vec![(layout::busybox(), Packed::Gzip)];
    for layer in 0..5usize {
        let mut builder = tar::Builder::new(Vec::new());
        let mut left = megabytes * 1_000_000 / 5;
        for n in 0.. {
            let size = [700, 3_000, 12_000, 40_000, 150_000][n % 5].min(left);
            if size == 0 {
                break;
            }
            left -= size;
            let mut content = noise(size / 2, (layer * 1_000_000 + n) as u64);
            content.resize(size, b'.');
            let mut header = tar::Header::new_gnu();
            header.set_size(size as u64);
            header.set_mode(0o644);
            let path = format!("usr/share/{layer}/{}/{n}", n % 40);
            builder
                .append_data(&mut header, path, content.as_slice())
                .unwrap();
        }
        layers.push((builder.into_inner().unwrap(), Packed::Gzip));
    }
    layers
}

fn disk_use(dir: &Path) -> u64 {
    let out = tool("du", &["-sk", &dir.display().to_string()]);
    out.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
        * 1024
}

fn main() {
    let me = std::env::current_exe().unwrap();
    let program = me.ancestors().nth(2).unwrap().join("snowglobe");
    let bench = Bench {
        dir: tempfile::tempdir().unwrap(),
        program,
    };
    std::fs::create_dir(bench.path("workspace")).unwrap();
    let registry = Registry::start(&Wish::default());
    for megabytes in [30, 500] {
        let layout = bench.path(&format!("layout-{megabytes}"));
        layout::write(
            Path::new(&layout),
            &userland(megabytes),
            serde_json::json!({"Env": ["PATH=/bin"]}),
        );
        let image = format!("{}/bench:{megabytes}", registry.host);
        registry.fill(
            &format!("oci:{layout}:latest"),
            &format!("bench:{megabytes}"),
            None,
        );
        std::fs::remove_dir_all(&layout).unwrap();
        snowglobe::show!(
            "image of {megabytes} MB ({} in the registry)",
            snowglobe::text::size(disk_use(registry.dir.path()))
        );
        let data = format!("data-{megabytes}");
        let cold = best(|| {
            bench.clear(&data);
            bench.prompt(&data, &image)
        });
        snowglobe::show!("  snowglobe: registry to first prompt    {cold}");
        snowglobe::show!(
            "  snowglobe: cached to first prompt      {}",
            best(|| bench.prompt(&data, &image))
        );
        let copy = best(|| {
            bench.clear("copy");
            timed(|| {
                drop(tool(
                    "skopeo",
                    &[
                        "--insecure-policy",
                        "copy",
                        "--quiet",
                        "--src-tls-verify=false",
                        &format!("docker://{image}"),
                        &format!("oci:{}:it", bench.path("copy")),
                    ],
                ))
            })
        });
        snowglobe::show!("  skopeo copy to a layout                {copy}");
        let unpack = best(|| {
            bench.clear("bundle");
            timed(|| {
                drop(tool(
                    "umoci",
                    &[
                        "unpack",
                        "--image",
                        &format!("{}:it", bench.path("copy")),
                        &bench.path("bundle"),
                    ],
                ))
            })
        });
        snowglobe::show!("  umoci unpack of that layout            {unpack}");
        extra(&bench, &data, &image);
        for part in [data.as_str(), "copy", "bundle"] {
            bench.clear(part);
        }
    }
}

/// The disk space that each of three VMs in parallel adds.
fn extra(bench: &Bench, data: &str, image: &str) {
    let dir = PathBuf::from(bench.path(data));
    let before = disk_use(&dir);
    let mut running: Vec<_> = ["a", "b", "c"]
        .map(|name| {
            let arguments = ["exec", "--image", image, "--", "echo up; sleep 1000"];
            let mut child = bench
                .command(data, name, &arguments)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert_eq!(line, "up\n");
            child
        })
        .into();
    snowglobe::show!(
        "  disk that one more VM takes            {}",
        snowglobe::text::size((disk_use(&dir) - before) / 3)
    );
    for child in &mut running {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    snowglobe::show!(
        "  disk that the image takes              {}",
        snowglobe::text::size(before)
    );
}
