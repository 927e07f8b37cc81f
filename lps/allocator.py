"""The memory allocator of the process, set for a loop that makes and drops the same tensors again and again.

An update on the CPU makes some hundred tensors of half a megabyte and drops them.  glibc hands the end of its heap back
to the system as soon as that is more than twice its largest block, so each update pays for thousands of page faults.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT = 1 << 30
_LARGEST_MMAP = 32 << 20  # the most that glibc takes


def keep_freed_memory() -> None:
    """Let freed memory, up to a gigabyte, stay with the process.  Does nothing where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)  # larger blocks come from the system one by one
    mallopt(_TRIM_THRESHOLD, _KEPT)
