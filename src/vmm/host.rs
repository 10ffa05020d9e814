//! What this host can run. Found out beforehand, never by waiting for a boot to fail.

use std::path::Path;

/// What matters of a host when an engine is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Whether and how KVM can be used.
    pub kvm: Kvm,
}

/// Whether KVM can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// It can.
    Usable,
    /// There is no `/dev/kvm`.
    Absent,
    /// `/dev/kvm` can't be opened.
    Denied(String),
    /// `/dev/kvm` exists, yet the processor has neither VT-x nor AMD-V to back it:
    /// such a KVM accepts a VM and fails minutes into its boot.
    Unbacked,
}

impl Kvm {
    /// Why it can't be used and what helps, for a person; nothing where it can.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Usable => None,
            Self::Absent => Some("/dev/kvm does not exist; load the kernel module kvm_intel or kvm_amd, or enable virtualization in the firmware".into()),
            Self::Denied(why) => Some(format!("/dev/kvm can't be opened ({why}); add yourself to the group kvm")),
            Self::Unbacked => Some("/dev/kvm exists, but the processor shows no VT-x or AMD-V, so guests would hang; enable nested virtualization on the outer host".into()),
        }
    }
}

impl Host {
    /// Looks at this host.
    pub fn detect() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let opened = Path::new("/dev/kvm").exists().then(|| {
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .map(drop)
                .map_err(|e| e.to_string())
        });
        Self {
            kvm: judge_kvm(opened, cfg!(target_arch = "x86_64"), &cpuinfo),
        }
    }
}

fn judge_kvm(opened: Option<Result<(), String>>, x86: bool, cpuinfo: &str) -> Kvm {
    let backed = !x86
        || cpuinfo
            .lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| {
                line.split_whitespace()
                    .any(|flag| flag == "vmx" || flag == "svm")
            });
    match opened {
        None => Kvm::Absent,
        Some(_) if !backed => Kvm::Unbacked,
        Some(Err(why)) => Kvm::Denied(why),
        Some(Ok(())) => Kvm::Usable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_a_processor_behind_it_is_not_kvm() {
        let with = "flags\t\t: fpu svm lm\n";
        let without = "flags\t\t: fpu lm svm_lock\n";
        assert_eq!(judge_kvm(Some(Ok(())), true, with), Kvm::Usable);
        assert_eq!(judge_kvm(Some(Ok(())), true, without), Kvm::Unbacked);
        assert_eq!(judge_kvm(Some(Ok(())), false, ""), Kvm::Usable);
        assert_eq!(judge_kvm(None, true, with), Kvm::Absent);
        assert_eq!(
            judge_kvm(Some(Err("no".into())), true, with),
            Kvm::Denied("no".into())
        );
    }
}
