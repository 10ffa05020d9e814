//! Whether KVM works is found out by running guests on it. Run once more on the emulated host, where it does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

use std::process::Command;

#[test]
fn the_probe_of_kvm_succeeds_only_with_hardware_behind_it() {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let backed = processor
        .split_whitespace()
        .any(|word| word == "svm" || word == "vmx");
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    for _ in 0..10 {
        let probe = Command::new(env!("CARGO_BIN_EXE_snowglobe-runner"))
            .arg("--probe-kvm")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&probe.stderr);
        let works = backed && device.is_ok();
        assert_eq!(probe.status.success(), works, "{said}");
        assert_eq!(said.is_empty(), works, "{said}");
    }
}

/// Whether changes in a directory are reported, as the runner tried it, and what it said.
fn watched(directory: &std::path::Path) -> (bool, String) {
    let tried = Command::new(env!("CARGO_BIN_EXE_snowglobe-runner"))
        .arg(snowglobe_runner::TRY_WATCH)
        .current_dir(directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    (tried.status.success(), said)
}

#[test]
fn a_directory_whose_changes_are_not_reported_is_told_from_others() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(watched(directory.path()), (true, String::new()));
    let (works, said) = watched(std::path::Path::new("/proc/self"));
    assert!(!works && !said.trim().is_empty(), "{said}");
}
