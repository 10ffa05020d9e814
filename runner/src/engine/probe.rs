//! Tests whether this host's KVM runs a guest: two tiny programs, a few milliseconds.
//!
//! A KVM may accept machines and yet not run them: without the processor's own virtualization, kernels fail minutes into
//! their boot. Such a KVM fails at a kernel's first `lock cmpxchg16b`, or is a hundred times slower at a loop in real
//! mode.

use std::time::{Duration, Instant};

use kvm_bindings::{kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

/// The time limit for the loop; where KVM works, it takes less than a hundredth of that.
const LIMIT: Duration = Duration::from_millis(50);

const MEMORY: usize = 64 << 10;
const TABLES: u64 = 0x1000;
const CODE: u64 = 0x4000;
const DATA: u64 = 0x8000;

/// In real mode: 65,535 rounds of a loop.
const LOOP: &[u8] = &[
    0xb9, 0xff, 0xff, // mov cx, 0xffff
    0x49, // dec cx
    0x75, 0xfd, // jnz the line above
    0xf4, // hlt
];

/// In long mode, as a kernel: one locked exchange of 16 bytes.
const EXCHANGE: &[u8] = &[
    0xf0, 0x48, 0x0f, 0xc7, 0x0f, // lock cmpxchg16b [rdi]
    0xf4, // hlt
];

/// Why KVM can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// KVM refused a call.
    #[error("{0}: {1}")]
    Refused(&'static str, kvm_ioctls::Error),
    /// There is no memory for the guest.
    #[error("give it memory: {0}")]
    Memory(String),
    /// The guest behaves differently from a processor.
    #[error("{0} ended differently from a real processor: {1}")]
    Wrong(&'static str, String),
    /// The guest is too slow.
    #[error("a loop of 65,535 rounds took {0:?}, as without hardware virtualization")]
    Slow(Duration),
}

type Done = Result<(), ProbeError>;

fn refused(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> ProbeError {
    move |error| ProbeError::Refused(what, error)
}

/// Runs the test; succeeds where guests run.
pub(crate) fn probe() -> Done {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)])
        .map_err(|error| ProbeError::Memory(error.to_string()))?;
    let kvm = Kvm::new().map_err(refused("open /dev/kvm"))?;
    let vm = kvm.create_vm().map_err(refused("make a machine"))?;
    set_memory(&vm, &memory)?;
    // First the test that fails sooner.
    exchange(&vm, &memory)?;
    real_mode_loop(&vm, &memory)
}

fn set_memory(vm: &VmFd, memory: &GuestMemoryMmap) -> Done {
    let host = memory
        .get_host_address(GuestAddress(0))
        .map_err(|error| ProbeError::Memory(error.to_string()))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: host as u64,
    };
    // SAFETY: the mapping has that size and outlives the machine: `probe` made it first and drops it last.
    unsafe { vm.set_user_memory_region(region) }.map_err(refused("give it memory"))
}

fn put(memory: &GuestMemoryMmap, at: u64, bytes: &[u8]) -> Done {
    memory
        .write_slice(bytes, GuestAddress(at))
        .map_err(|error| ProbeError::Memory(error.to_string()))
}

/// A processor that is ready to run the code.
fn processor(vm: &VmFd, id: u64, set: impl FnOnce(&mut kvm_sregs)) -> Result<VcpuFd, ProbeError> {
    let cpu = vm.create_vcpu(id).map_err(refused("make a processor"))?;
    let mut special = cpu.get_sregs().map_err(refused("read its registers"))?;
    set(&mut special);
    cpu.set_sregs(&special)
        .map_err(refused("set its registers"))?;
    let mut registers = cpu.get_regs().map_err(refused("read its registers"))?;
    registers.rip = CODE;
    registers.rflags = 2;
    registers.rdi = DATA;
    cpu.set_regs(&registers)
        .map_err(refused("set its registers"))?;
    Ok(cpu)
}

fn run(mut cpu: VcpuFd, what: &'static str) -> Result<Duration, ProbeError> {
    let begun = Instant::now();
    let exit = cpu.run().map_err(refused("run it"))?;
    match exit {
        VcpuExit::Hlt => Ok(begun.elapsed()),
        other => Err(ProbeError::Wrong(what, format!("{other:?}"))),
    }
}

fn real_mode_loop(vm: &VmFd, memory: &GuestMemoryMmap) -> Done {
    put(memory, CODE, LOOP)?;
    let cpu = processor(vm, 1, |special| {
        special.cs.base = 0;
        special.cs.selector = 0;
    })?;
    match run(cpu, "a loop in real mode")? {
        took if took > LIMIT => Err(ProbeError::Slow(took)),
        _ => Ok(()),
    }
}

fn exchange(vm: &VmFd, memory: &GuestMemoryMmap) -> Done {
    put(memory, CODE, EXCHANGE)?;
    // Three page tables, each pointing to the next; the last maps a page of 2 MiB, present and writable.
    for (at, entry) in [
        (TABLES, (TABLES + 0x1000) | 3),
        (TABLES + 0x1000, (TABLES + 0x2000) | 3),
        (TABLES + 0x2000, 0x83),
    ] {
        put(memory, at, &entry.to_le_bytes())?;
    }
    let segment = |kind: u8, long: bool| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 8,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    let cpu = processor(vm, 0, |special| {
        special.cs = segment(11, true);
        let data = segment(3, false);
        (special.ds, special.es, special.ss) = (data, data, data);
        special.cr3 = TABLES;
        // Physical addresses of more than 32 bits; protection and paging; long mode, enabled and active.
        special.cr4 |= 1 << 5;
        special.cr0 |= 1 | 1 << 31;
        special.efer |= 1 << 8 | 1 << 10;
    })?;
    run(cpu, "a kernel's `lock cmpxchg16b`").map(drop)
}
