"""Entry points of kernels: each variant is made once."""

import threading
import time

import numpy as np

from fastce.kernels.codegen.jit import Kernel


def test_threads_that_call_first_share_one_compilation(monkeypatch):
    """Seen to fail: where a thread does not look again once it has the compiler's lock."""
    compiled = []

    def compile_(kernel, parallel, args):
        time.sleep(0.05)
        compiled.append(parallel)
        return len(compiled)

    monkeypatch.setattr(Kernel, "_compile", compile_)
    kernel, found = Kernel(np.copy), []
    args = (np.zeros(3),)
    threads = [threading.Thread(target=lambda: found.append(kernel.entry(False, args))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert compiled == [False]
    assert found == [1] * 6
