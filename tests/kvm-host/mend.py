#!/usr/bin/env python3
"""Writes a copy of qemu-system-x86_64 that lacks two flaws in the emulation of AMD's virtualization.

usage: mend.py PROGRAM COPY

An interrupt that comes twice. When VMRUN injects an interrupt, QEMU delivers it at once, but leaves its number behind as
an exception that is still to be raised. Usually something resets it in time. If another thread asks the virtual
processor to stop for a moment before that, QEMU delivers the same interrupt a second time, between any two instructions
of the guest, whether or not it takes interrupts there. In the first instructions of an interrupt's entry that is the end
of a Linux guest. The copy does not leave the number behind: the one store becomes an instruction that does nothing.

An interrupt that never comes. At VMRUN and at #VMEXIT the virtual processor's thread sets and clears a bit among its
pending interrupts, in one instruction that is not atomic. If another thread sets the bit of a device's interrupt
meanwhile, that bit is lost. If it was the timer's, the processor halts for ever with the interrupt in its APIC's IRR. The
copy sets and clears the bit atomically.

A flaw whose code is not found exactly once stays, with a message. Status 1 and no copy if that is so for both; then the
version of QEMU is one that this script does not know.
"""

import pathlib
import re
import sys

# In the order in which compilers have written it: what is to be delivered (exception_index, then exception_is_int = 0,
# exception_next_eip = -1), the question whether it is to be logged, and the call that delivers (is_hw = 1).
STORE = re.compile(
    rb"(\x89[\x80-\xbf].{4})"  # mov %reg32, exception_index(%reg)
    rb"\xc7[\x80-\x87].{4}\x00{4}"  # movl $0, exception_is_int(%reg)
    rb"\x48\xc7[\x80-\x87].{4}\xff{4}"  # movq $-1, exception_next_eip(%reg)
    rb"\xf6\x05.{4}\x02\x0f\x85.{4}"  # testb $CPU_LOG_TB_IN_ASM, qemu_loglevel(%rip); jne
    rb"\xba\x01\x00{3}"  # mov $1, %edx
    rb"\x48\x89.\xe8",  # mov env, %rdi; call do_interrupt_x86_hardirq
    re.DOTALL,
)
NOTHING = bytes.fromhex("660f1f440000")  # nopw 0x0(%rax,%rax,1)

# The field is addressed relative to the registers' structure, which follows it: its offset is negative.
SET = re.compile(rb"\x81([\x88-\x8b\x8d-\x8f])(.{3}\xff)\x00\x01\x00\x00", re.DOTALL)  # orl $0x100, offset(%reg)
CLEAR = re.compile(rb"\x81([\xa0-\xa3\xa5-\xa7])(.{3}\xff)\xff\xfe\xff\xff", re.DOTALL)  # andl $~0x100, offset(%reg)


def twice(code: bytes) -> list[tuple[int, bytes]]:
    """What to write where, so that no interrupt comes twice."""
    return [(found.start(1), NOTHING) for found in STORE.finditer(code)]


def never(code: bytes) -> list[tuple[int, bytes]]:
    """What to write where, so that no interrupt is lost."""

    def atomic(found: re.Match[bytes], operation: int) -> tuple[int, bytes]:
        register = found[1][0] & 7
        # lock bts/btr $8, offset(%reg); nop
        return found.start(), bytes([0xF0, 0x0F, 0xBA, operation | register]) + found[2] + b"\x08\x90"

    sets, clears = list(SET.finditer(code)), list(CLEAR.finditer(code))
    if len(sets) != 1 or len(clears) != 1 or sets[0][2] != clears[0][2]:
        return []
    return [atomic(sets[0], 0xA8), atomic(clears[0], 0xB0)]


def main() -> int:
    program, copy = map(pathlib.Path, sys.argv[1:])
    code = bytearray(program.read_bytes())
    mended = False
    for flaw, places, count in (
        ("an interrupt that comes twice", twice(bytes(code)), 1),
        ("an interrupt that never comes", never(bytes(code)), 2),
    ):
        if len(places) != count:
            print(f"{program}: the code of {flaw} was not found once", file=sys.stderr)
            continue
        for begin, instruction in places:
            code[begin : begin + len(instruction)] = instruction
        mended = True
    if mended:
        copy.write_bytes(code)
        copy.chmod(0o755)
    return 0 if mended else 1


if __name__ == "__main__":
    sys.exit(main())
