"""`python -m tests.no_network MODULE ARGUMENTS`: run a module in a process that ends if it asks for an internet socket.

The kernel sees to it (seccomp), so that libraries in C are held to it like Python: telemetry that a library sends of
its own accord is a death by SIGSYS. Linux on x86-64 and arm64 only.
"""

from __future__ import annotations

import ctypes
import platform
import runpy
import struct
import sys

SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Machine → the kernel's number of its architecture, and of the call `socket`."""
AF_INET, AF_INET6 = 2, 10
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT = 0, 4, 16
SET_NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2


def forbid() -> None:
    """End this process, and all that it starts, at the first internet socket from now on.

    Raises:
        OSError: if the kernel does not offer it.
    """
    architecture, call = SOCKET[platform.machine()]
    # Code, jump if true, jump if false, constant; the last two lines are where the jumps go.
    lines = [
        (LOAD, 0, 0, ARCHITECTURE_AT), (EQUAL, 0, 5, architecture),
        (LOAD, 0, 0, NUMBER_AT), (EQUAL, 0, 3, call),
        (LOAD, 0, 0, FIRST_ARGUMENT_AT), (EQUAL, 2, 0, AF_INET), (EQUAL, 1, 0, AF_INET6),
        (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, KILL),
    ]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    none = ctypes.c_ulong(0)
    if library.prctl(SET_NO_NEW_PRIVILEGES, ctypes.c_ulong(1), none, none, none):
        raise OSError(ctypes.get_errno(), "prctl")
    if library.prctl(SET_SECCOMP, ctypes.c_ulong(FILTER), program, none, none):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    forbid()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
