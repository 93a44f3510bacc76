"""Becomes another program, on certain cores, that dies when whoever started it dies: `pinned.py 0,1 PROGRAM …`.

Run by its path and not imported: Python's own way of doing this between fork and exec is unsafe beside threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if sys.argv[1]:
        os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
    os.execvp(sys.argv[2], sys.argv[2:])
