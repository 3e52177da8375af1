"""A part of a benchmark in a process of its own, whose memory is its own."""

import os
import subprocess
import sys


def in_own_process(script: str, *words: str) -> str | None:
    """Run a benchmark's script with arguments, and give the last line that it prints; None if it failed, which is shown.

    Memory that is freed there goes back to the system at once, so that the resident set is what is in use.
    """
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
    }
    command = [sys.executable, script, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{' '.join(words)} failed with {done.returncode}:\n{done.stderr[-2000:]}", flush=True)
        return None
    return done.stdout.splitlines()[-1]
