//! The frequency of this host's time stamp counter.
//!
//! Under translation the guest reads the host's counter, and a guest that measures it against emulated timers sometimes
//! hangs. So the kernel's command line tells it the frequency.

/// The counter's frequency in kHz; `None` where there is no such counter.
#[cfg(target_arch = "x86_64")]
pub(crate) fn khz() -> Option<u64> {
    use std::time::{Duration, Instant};

    // Of many readings, the one that took the least time: an interruption makes a reading longer.
    let reading = || {
        (0..200)
            .map(|_| {
                let before = Instant::now();
                // SAFETY: every x86-64 processor has the instruction, and Linux allows it to all programs.
                let ticks = unsafe { core::arch::x86_64::_rdtsc() };
                let around = before.elapsed();
                (around, before + around / 2, ticks)
            })
            .min_by_key(|(around, ..)| *around)
            .map(|(_, when, ticks)| (when, ticks))
    };
    let (start, first) = reading()?;
    std::thread::sleep(Duration::from_millis(10));
    let (end, last) = reading()?;
    let nanoseconds = u64::try_from((end - start).as_nanos()).ok()?;
    let ticks = last.checked_sub(first)?;
    // The product fits 64 bits: the measurement is short.
    Some((ticks * 1_000_000 + nanoseconds / 2) / nanoseconds).filter(|&khz| khz > 0)
}

/// The counter's frequency in kHz; `None` where there is no such counter.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn khz() -> Option<u64> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #[test]
    fn measurements_agree() {
        let (a, b) = (super::khz().unwrap(), super::khz().unwrap());
        assert!(a.abs_diff(b) < a / 1000, "{a} {b}");
        assert!((100_000..10_000_000).contains(&a), "{a}");
    }
}
