"""All benchmarks, one after the other: `make bench`. Their tables are printed and go into docs/benchmarks.md.

Takes about an hour on two cores, and the machine for itself; `--quick` shows in a few minutes that everything runs.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.contest import ROOT

BENCHMARKS = (
    "kernels",
    "qat_step",
    "qat_step_keras",
    "mask_step",
    "sparse_training",
    "export_latency",
    "pruned_latency",
    "channel_groups",
    "hawq",
    "packing",
    "attach_growth",
    "soups",
)


def main(options: list[str]) -> int:
    failed = []
    for name in BENCHMARKS:
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT).returncode
        if code:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
