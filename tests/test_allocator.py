"""A loop of temporaries takes its memory from the system once."""

import subprocess
import sys

import pytest

LOOP = """
import resource, sys
import numpy as np
from lps.cpu import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def update():
    tensors = [np.ones(1 << 17, np.float32) for _ in range(20)]

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(3):
    update()
before = faults()
for _ in range(20):
    update()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_temporaries_are_not_paid_for_again_and_again():
    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", LOOP, how], check=True, capture_output=True, text=True).stdout)

    usual, kept = faults("usual"), faults("kept")
    assert usual > 1000, "glibc no longer hands memory back: keep_freed_memory can go"
    assert kept < usual / 100


def test_another_c_library_is_left_alone(monkeypatch):
    import ctypes

    from lps.cpu import keep_freed_memory

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
