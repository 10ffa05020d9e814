//! The programs that this binary can be. The first argument chooses one; without it, the binary is the runner.

/// Serves one shared directory.
pub(crate) const SHARE: &str = "share";

/// Becomes a libkrun machine.
pub(crate) const KRUN: &str = "krun";

/// Tests whether this host's KVM runs a guest.
pub(crate) const PROBE_KVM: &str = "--probe-kvm";

/// Tries to get through one fence.
pub(crate) const FENCE_TRIAL: &str = "fence-trial";

/// Does nothing until its input ends.
pub(crate) const FENCE_TRIAL_SLEEPER: &str = "fence-trial-sleeper";
