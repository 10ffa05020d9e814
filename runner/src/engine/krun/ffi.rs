//! Every call of libkrun, and nothing else. Arguments are checked and owned here; an error names the call.
//!
//! libkrun is linked into this program. It has a C interface: numbers for errors, pointers for strings, and a number for
//! a configuration. [`Context`] is that number; [`Context::enter`] consumes it, and returns only if the machine can't be
//! built.

use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use snowglobe_runner::DiskFormat;

/// `krun_set_kernel`'s number for an ELF file.
const KERNEL_FORMAT_ELF: u32 = 1;

/// No vsock traffic goes to the host's own sockets.
const NO_SOCKET_IMPERSONATION: u32 = 0;

/// `krun_add_disk3`'s number for flushes that reach the host's disk.
const SYNC_RELAXED: u32 = 1;

/// A failed call of libkrun.
#[derive(Debug, thiserror::Error)]
pub(super) enum KrunError {
    /// libkrun reported an error.
    #[error("{call}{subject}: {source}")]
    Refused {
        /// The function.
        call: &'static str,
        /// The subject of the call, after a space.
        subject: String,
        /// The meaning of its number.
        source: io::Error,
    },
    /// A path or a name is no C string.
    #[error("{call}: {what} holds a zero byte")]
    Zero {
        /// The function.
        call: &'static str,
        /// The path or name.
        what: String,
    },
}

type Outcome = Result<(), KrunError>;

/// A machine that is being configured.
#[derive(Debug)]
pub(super) struct Context(u32);

fn checked(
    call: &'static str,
    subject: impl std::fmt::Display,
    code: i32,
) -> Result<u32, KrunError> {
    u32::try_from(code).map_err(|_| KrunError::Refused {
        call,
        subject: match subject.to_string() {
            subject if subject.is_empty() => subject,
            subject => format!(" for {subject}"),
        },
        source: io::Error::from_raw_os_error(code.saturating_neg()),
    })
}

fn text(call: &'static str, text: &str) -> Result<CString, KrunError> {
    CString::new(text).map_err(|error: NulError| KrunError::Zero {
        call,
        what: String::from_utf8_lossy(&error.into_vec()).into_owned(),
    })
}

fn path(call: &'static str, path: &Path) -> Result<CString, KrunError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| KrunError::Zero {
        call,
        what: path.display().to_string(),
    })
}

impl Context {
    /// An empty machine, without libkrun's implicit console and vsock.
    pub(super) fn new() -> Result<Self, KrunError> {
        let context = Self(checked("krun_create_ctx", "", krun::krun_create_ctx())?);
        checked(
            "krun_disable_implicit_console",
            "",
            krun::krun_disable_implicit_console(context.0),
        )?;
        checked(
            "krun_disable_implicit_vsock",
            "",
            krun::krun_disable_implicit_vsock(context.0),
        )?;
        Ok(context)
    }

    /// Sets the number of processors and the memory in MiB.
    pub(super) fn set_size(&self, cpus: u8, memory_mib: u32) -> Outcome {
        let code = krun::krun_set_vm_config(self.0, cpus, memory_mib);
        let size = format_args!("{cpus} processors and {memory_mib} MiB");
        checked("krun_set_vm_config", size, code).map(drop)
    }

    /// Sets the kernel, an ELF file, with its initramfs and its command line.
    pub(super) fn set_kernel(&self, kernel: &Path, initramfs: &Path, line: &str) -> Outcome {
        const CALL: &str = "krun_set_kernel";
        let (elf, archive, line) = (
            path(CALL, kernel)?,
            path(CALL, initramfs)?,
            text(CALL, line)?,
        );
        // SAFETY: the three strings end in a zero byte and live until the call is over, which copies them.
        let code = unsafe {
            krun::krun_set_kernel(
                self.0,
                elf.as_ptr(),
                KERNEL_FORMAT_ELF,
                archive.as_ptr(),
                line.as_ptr(),
            )
        };
        checked(CALL, kernel.display(), code).map(drop)
    }

    /// Adds the next disk.
    pub(super) fn add_disk(
        &self,
        name: &str,
        file: &Path,
        format: DiskFormat,
        read_only: bool,
    ) -> Outcome {
        const CALL: &str = "krun_add_disk3";
        let (id, image) = (text(CALL, name)?, path(CALL, file)?);
        let format = match format {
            DiskFormat::Raw => 0,
            DiskFormat::Qcow2 => 1,
        };
        // SAFETY: the two strings end in a zero byte and live until the call is over, which copies them.
        let code = unsafe {
            krun::krun_add_disk3(
                self.0,
                id.as_ptr(),
                image.as_ptr(),
                format,
                read_only,
                false,
                SYNC_RELAXED,
            )
        };
        checked(CALL, file.display(), code).map(drop)
    }

    /// Adds a vsock device, without ports.
    pub(super) fn add_vsock(&self) -> Outcome {
        let code = krun::krun_add_vsock(self.0, NO_SOCKET_IMPERSONATION);
        checked("krun_add_vsock", "", code).map(drop)
    }

    /// Adds a port to the vsock device: libkrun makes `socket` for it, and the guest listens on it.
    pub(super) fn add_vsock_port(&self, port: u32, socket: &Path) -> Outcome {
        self.add_port(port, socket, true)
    }

    /// Adds a port to the vsock device on which the guest connects to `socket`.
    pub(super) fn add_vsock_service(&self, port: u32, socket: &Path) -> Outcome {
        self.add_port(port, socket, false)
    }

    fn add_port(&self, port: u32, socket: &Path, listen: bool) -> Outcome {
        const CALL: &str = "krun_add_vsock_port2";
        let place = path(CALL, socket)?;
        // SAFETY: the string ends in a zero byte and lives until the call is over, which copies it.
        let code = unsafe { krun::krun_add_vsock_port2(self.0, port, place.as_ptr(), listen) };
        checked(CALL, socket.display(), code).map(drop)
    }

    /// Adds a serial port without input; its output goes to `output`.
    pub(super) fn add_serial(&self, output: OwnedFd) -> Outcome {
        // SAFETY: the descriptor is open, and libkrun owns it from here on and closes it when the machine ends.
        let code =
            unsafe { krun::krun_add_serial_console_default(self.0, -1, output.into_raw_fd()) };
        checked("krun_add_serial_console_default", "", code).map(drop)
    }

    /// Runs the machine in this process, which ends with it. Returns only if the machine can't be built.
    pub(super) fn enter(self) -> KrunError {
        let code = krun::krun_start_enter(self.0);
        match checked("krun_start_enter", "", code) {
            Err(error) => error,
            Ok(_) => KrunError::Refused {
                call: "krun_start_enter",
                subject: String::new(),
                source: io::Error::other("it returned without an error"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_call_and_what_it_was_for() {
        let context = Context::new().unwrap();
        let unknown = Context(u32::MAX - 7);
        let error = unknown.set_size(1, 128).unwrap_err().to_string();
        assert!(
            error.starts_with("krun_set_vm_config for 1 processors and 128 MiB: No such file"),
            "{error}"
        );
        let error = context
            .add_vsock_port(1024, Path::new("/a\0b"))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "krun_add_vsock_port2: /a\0b holds a zero byte"
        );
        let missing = context.set_kernel(Path::new("/k"), Path::new("/no/such/initramfs"), "quiet");
        let error = missing.unwrap_err().to_string();
        assert!(error.starts_with("krun_set_kernel for /k: "), "{error}");
        let taken = tempfile::NamedTempFile::new().unwrap();
        context.add_vsock().unwrap();
        let error = context
            .add_vsock_port(1024, taken.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("krun_add_vsock_port2 for /"), "{error}");
    }

    #[test]
    fn a_whole_machine_is_accepted() {
        let initramfs = tempfile::NamedTempFile::new().unwrap();
        let context = Context::new().unwrap();
        context.set_size(2, 512).unwrap();
        context
            .set_kernel(Path::new("/k"), initramfs.path(), "quiet")
            .unwrap();
        context
            .add_disk("disk0", Path::new("/d"), DiskFormat::Qcow2, false)
            .unwrap();
        context.add_vsock().unwrap();
        for port in [1024, 1025] {
            let socket = format!("/no/such/socket-{port}");
            context.add_vsock_port(port, Path::new(&socket)).unwrap();
        }
        context
            .add_vsock_service(1026, Path::new("/proc/self/fd/5"))
            .unwrap();
        let (_, output) = std::os::unix::net::UnixStream::pair().unwrap();
        context.add_serial(output.into()).unwrap();
    }
}
