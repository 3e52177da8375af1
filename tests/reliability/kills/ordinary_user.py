"""Rights of an ordinary user, for a process of root's, whom access rights do not stop."""

import ctypes
import sys

_VERSION_3 = 0x20080522
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
"""The capabilities to write and to read what one has no right to, capabilities(7)."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def obey_access_rights() -> None:
    """Give up, for good, this process's capabilities to pass over access rights. Does nothing but on Linux.

    Raises:
        OSError: The system does not let it.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    if libc.capget(ctypes.byref(header), sets) == 0:
        gone = 1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH
        for name in ("effective", "permitted"):
            setattr(sets[0], name, getattr(sets[0], name) & ~gone)
        if libc.capset(ctypes.byref(header), sets) == 0:
            return
    raise OSError(ctypes.get_errno(), "The capabilities of this process could not be changed.")
