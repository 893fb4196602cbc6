"""How much memory a Python process takes."""

import subprocess
import sys

# A process inherits its parent's peak, so a small one stands between.
METER = """
import os, resource, subprocess, sys
process = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
said = process.stderr.read()
_, status, usage = os.wait4(process.pid, 0)
sys.stderr.buffer.write(said)
print(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(status != 0)
"""


def peak(*arguments: object) -> int:
    """Bytes of memory that ``python *arguments`` takes at most: ``peak("-c", "import torch")``.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    command = [sys.executable, "-c", METER, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(map(str, arguments))[:100]} failed: {done.stderr[-500:]}")
    return int(done.stdout.split()[-1])
