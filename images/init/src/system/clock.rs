//! The clocks: the time of day, and how far the boot has come.

use std::fs;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::boot::STAGE_PREFIX;

static STARTED: OnceLock<Duration> = OnceLock::new();

/// The time since the kernel started.
pub(crate) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    // The kernel counts up from zero.
    Duration::try_from(now).unwrap_or_default()
}

/// Notes when init started.
pub fn note_start() {
    STARTED.get_or_init(since_boot);
}

/// The time between the kernel's start and init's; zero if it was not noted.
pub(crate) fn started() -> Duration {
    STARTED.get().copied().unwrap_or_default()
}

/// Prints a stage of the boot on the console, with the time since the kernel started.
pub fn stage(name: &str) {
    let now = since_boot();
    let (seconds, millis) = (now.as_secs(), now.subsec_millis());
    let line = format!("[{seconds:5}.{millis:03}] {STAGE_PREFIX}{name}\n");
    // Best effort: a boot without a console continues.
    fs::write("/dev/console", line).ok();
}

/// Sets the time of day (nanoseconds since the Unix epoch) and mixes in entropy (base64).
pub(crate) fn renew(clock_ns: u64, entropy: &str) -> io::Result<()> {
    let now = Timespec::try_from(Duration::from_nanos(clock_ns)).map_err(io::Error::other)?;
    clock_settime(ClockId::Realtime, now)?;
    if let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(entropy) {
        fs::write("/dev/urandom", bytes)?;
    }
    Ok(())
}
