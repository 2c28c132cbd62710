"""Whether `holdfast benchmark` tells the truth: its prediction for a disk beside real backups of that disk.

A mixed image of half its size in data is measured, then backed up in full, then again unchanged. The prediction is off
when it differs from what the jobs did by more than the tolerance; the start of movers is not part of either.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import results
from holdfast_runs import backup, one_disk
from images import make_mixed_image

# Rates of two cores vary by a fifth from run to run. An unchanged disk is over in a second, and a digest also fetches
# the base's ids, which the benchmark has none of.
TOLERANCES = {"full": 0.3, "unchanged": 0.6}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mib", type=int, default=4096)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        image = Path(folder) / "image.raw"
        make_mixed_image(image, options.size_mib)
        with one_disk(Path(folder) / "house", image) as house:
            house.add_repository("main", encrypted=True)
            house.add_job("job", repository="main", include="vm")
            disk = house.vms / "vm" / "disk.raw"
            told = house.holdfast(
                "benchmark",
                "local",
                "main",
                "--disk",
                f"file:{disk}",
                "--size",
                f"{options.size_mib} MiB",
                "--changed",
                "0",
            )
            prediction = told["prediction"]
            off, found = 0, {}
            for name, key in (("full", "full_bytes_per_s"), ("unchanged", "incremental_bytes_per_s")):
                run = backup(house, "job")
                counters = run.report["disks"][0]["counters"]
                measured = counters["processed_bytes"] / counters["elapsed_s"]
                ratio = prediction[key] / measured
                found[name] = {"predicted_bytes_per_s": prediction[key], "measured_bytes_per_s": measured}
                off += abs(ratio - 1) > TOLERANCES[name]
                print(
                    f"{name:10} predicted {prediction[key] / 2**20:6.0f} MiB/s, "
                    f"measured {measured / 2**20:6.0f} MiB/s: x {ratio:.2f}; "
                    f"bottleneck {prediction['bottleneck_full' if name == 'full' else 'bottleneck_incremental']}, "
                    f"the job's {run.report['bottleneck']}"
                )
    results.write("predicted_rate", {"size_mib": options.size_mib, "runs": found})
    print("the prediction holds" if not off else f"the prediction is off by more than {TOLERANCES}")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
