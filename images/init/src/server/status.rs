//! The guest's state, for the host.

use std::fs;
use std::time::Duration;

use crate::system;
use crate::wire::Status;

/// The state now; `commands` is how many commands run.
pub(super) fn status(commands: u64) -> Status {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (used, free) = rustix::fs::statvfs("/")
        .map(|fs| {
            (
                (fs.f_blocks - fs.f_bfree) * fs.f_frsize,
                fs.f_bavail * fs.f_frsize,
            )
        })
        .unwrap_or_default();
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        uptime_ms: milliseconds(uptime()),
        init_started_ms: milliseconds(system::started()),
        memory_bytes: memory_bytes(&memory, "MemTotal:"),
        memory_available_bytes: memory_bytes(&memory, "MemAvailable:"),
        disk_used_bytes: used,
        disk_free_bytes: free,
        commands,
    }
}

/// A field of `/proc/meminfo`, which is in KiB there.
fn memory_bytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.unwrap_or_default().trim().trim_end_matches(" kB");
    number.parse::<u64>().unwrap_or_default() << 10
}

fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|s| s.parse().ok());
    Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
