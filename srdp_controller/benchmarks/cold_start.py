"""A policy's first answer in a fresh process: how long it takes, and what memory it needs.

``python -m srdp_controller.benchmarks.cold_start BUNDLE POLICY PROVIDER`` prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def resident_bytes() -> int:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def main(arguments: list[str]) -> None:
    """Load, verify, warm up, answer once more."""
    folder, policy, provider = arguments
    began = time.perf_counter()
    from srdp_controller.engines.bundle import load_bundle
    from srdp_controller.engines.providers import load_engine

    imported, before = time.perf_counter(), resident_bytes()
    engine = load_engine(load_bundle(folder), policy, provider)
    loaded = time.perf_counter()
    engine.run()
    record = {
        "import_s": imported - began,
        "load_s": loaded - imported,
        "memory_bytes": resident_bytes() - before,
        "process_bytes": resident_bytes(),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main(sys.argv[1:])
