#!/usr/bin/env python3
"""Writes a copy of qemu-system-x86_64 that lacks one flaw in the emulation of AMD's virtualization.

usage: mend.py PROGRAM COPY

When VMRUN injects an interrupt, QEMU delivers it at once, but leaves its number behind as an exception that is still to
be raised. Usually something resets it in time. If another thread asks the virtual processor to stop for a moment before
that, QEMU delivers the same interrupt a second time, between any two instructions of the guest, whether or not it takes
interrupts there. In the first instructions of an interrupt's entry that is the end of a Linux guest.

The copy does not leave the number behind: the one store becomes an instruction that does nothing. Status 1 and no copy
where that store is not found exactly once; then the program is one that nobody has looked at.
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


def main() -> int:
    program, copy = map(pathlib.Path, sys.argv[1:])
    code = program.read_bytes()
    found = [match.span(1) for match in STORE.finditer(code)]
    if len(found) != 1:
        print(f"{program}: the store was found {len(found)} times", file=sys.stderr)
        return 1
    begin, end = found[0]
    copy.write_bytes(code[:begin] + NOTHING + code[end:])
    copy.chmod(0o755)
    return 0


if __name__ == "__main__":
    sys.exit(main())
