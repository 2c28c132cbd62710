"""Charts of what the benchmarks found: from ``bench-work/NAME.json`` to ``docs/figures/NAME.svg``, or another folder.

Bars that begin at 0, one panel for each thing that was measured, ours in colour. What has not been measured is passed
over, and its chart stays as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bars import Bar, Panel, chart

WORK = Path("bench-work")
MIB = 1 << 20
Found = Mapping[str, Any]
_SHORT = {
    ", whole command": "",
    ", changes tracked by QEMU": ", tracked",
    "borg lz4, not encrypted, blocks of 4 MiB": "borg lz4, open, 4 MiB",
    ", not encrypted": ", open",
    ", encrypted": ", sealed",
    "qemu-img convert, zstd": "qemu-img, zstd",
    ", written in any order": ", -W",
    "virtnbdbackup, not compressed": "virtnbdbackup",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path(__file__).resolve().parent.parent / "docs" / "figures")
    parser.add_argument("--from", dest="source", type=Path, default=WORK)
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    for name, draw in CHARTS.items():
        source = given.source / f"{name}.json"
        if source.exists():
            found = json.loads(source.read_text())
            (given.to / f"{name}.svg").write_text(draw(found))
            print(given.to / f"{name}.svg")
    return 0


def _peers(found: Found) -> str:
    medians: Mapping[str, Mapping[str, float | None]] = found["medians"]
    columns = {
        "full_s": ("Full backup", "s"),
        "unchanged_s": ("Nothing changed", "s"),
        "changed_s": (f"{found['changed']:.0%} changed", "s"),
        "restore_s": ("Restore", "s"),
        "verify_s": ("Verify all data", "s"),
        "stored_mib": ("Stored after the full", "MiB"),
    }
    panels = [
        Panel(title, unit, [_bar(name, each[field]) for name, each in medians.items() if "step" not in name])
        for field, (title, unit) in columns.items()
    ]
    text = (
        f"An image of {found['image_mib']:,} MiB with {found['used_mib']:,} MiB of data, {found['cores']} cores, whole "
        f"commands, median of {found['rounds']}; shorter is better"
    )
    return chart("Holdfast and other programs with the same disk", text, panels, columns=2)


def _changed(found: Found) -> str:
    runs = found["runs"]
    panels = [
        Panel("Transfer", "s", [Bar(run["changed"], run["transfer_s"], ours=True) for run in runs]),
        Panel("Told as changed", "MiB", [Bar(run["changed"], run["told_mib"]) for run in runs]),
        Panel("Stored", "MiB", [Bar(run["changed"], run["stored_mib"], ours=True) for run in runs]),
    ]
    text = f"An image of {found['size_mib']:,} MiB, runs of 256 KiB scattered all over, blocks of 1 MiB"
    return chart("Incrementals by how much changed", text, panels, columns=3)


def _data_path(found: Found) -> str:
    parts: Mapping[str, Mapping[str, float]] = found["parts"]
    panels = []
    for kind, field in (("wall", "took_s"), ("processor", "cpu_s")):
        for what in ("full", "unchanged"):
            names = {"bare loop": f"bare {what}", "one process": f"{what}, one process", "two": f"{what}, two"}
            bars = [Bar(name, parts[part][field], ours="bare" not in part) for name, part in names.items()]
            panels.append(Panel(f"{what.capitalize()}, {kind} time", "s", bars))
    text = f"{found['used_mib']:,} MiB of data, medians of {found['rounds']}; movers of one host are one process"
    return chart("Two movers beside a bare loop of two threads", text, panels, columns=2)


def _fair_shares(found: Found) -> str:
    panels = []
    for run in found["runs"]:
        slots = "one slot" if run["slots"] == 1 else f"{run['slots']} slots"
        bars = [Bar(f"disk {number + 1}", each, ours=True) for number, each in enumerate(run["each_s"])]
        panels.append(Panel(f"{run['run'].capitalize()}, {slots}", "s", [*bars, Bar("whole step", run["step_s"])]))
    text = f"{found['disks']} disks of {found['size_mib']:,} MiB on {found['cores']} cores: the transfer of each"
    return chart("Several disks at once", text, panels, columns=2)


def _compare_gc(found: Found) -> str:
    tools = found["tools"]
    panels = [
        Panel(title, unit, [_bar(name, each[field]) for name, each in tools.items()])
        for field, title, unit in (
            ("took_s", "Took", "s"),
            ("before_mib", "Before", "MiB"),
            ("after_mib", "After", "MiB"),
        )
    ]
    text = (
        f"{found['points']} states of an image of {found['size_mib']:,} MiB, a tenth changed each time; half forgotten"
    )
    return chart("Giving the space of forgotten backups back", text, panels, columns=1)


def _latency(found: Found) -> str:
    panels = []
    for run in found["runs"]:
        bars = [Bar("plain TCP", 100 * run["plain"]), *(Bar(each, 100 * run[each], ours=True) for each in _WAYS)]
        streams = "1 stream" if run["streams"] == 1 else f"{run['streams']} streams"
        panels.append(Panel(f"{streams.capitalize()}, of the line", "%", bars))
    text = f"{found['mbit']:,} Mbit/s, a round trip of {found['round_trip_ms']} ms; {found['size_mib']:,} MiB"
    return chart("A long line", text, panels, columns=min(3, len(panels)))


_WAYS = ("backup", "restore")


def _predicted(found: Found) -> str:
    panels = []
    for name, run in found["runs"].items():
        bars = [
            Bar("predicted", run["predicted_bytes_per_s"] / MIB, ours=True),
            Bar("the job's", run["measured_bytes_per_s"] / MIB),
        ]
        panels.append(Panel(name.capitalize(), "MiB/s", bars))
    text = f"An image of {found['size_mib']:,} MiB: rates that holdfast benchmark tells beforehand, and what jobs did"
    return chart("Predictions and jobs", text, panels, columns=2)


def _memory(found: Found) -> str:
    runs = [(what, each) for what, each in found.items() if isinstance(each, dict)]
    bars = [Bar("idle agent", found["idle_agent_mib"], ours=True)]
    bars += [Bar(f"a mover, {what}", each["mover_mib"], ours=True) for what, each in runs]
    panels = [
        Panel("Memory at most", "MiB", [*bars, Bar("limit of a mover", 250.0)]),
        Panel("Took", "s", [Bar(what, each["took_s"], ours=True) for what, each in runs]),
    ]
    return chart("A sparse disk", str(found["disk"]), panels, columns=2)


def _bar(name: str, value: float | None) -> Bar:
    short = name
    for long, word in _SHORT.items():
        short = short.replace(long, word)
    return Bar(short, value, ours=name.startswith("holdfast"))


CHARTS: dict[str, Callable[[Found], str]] = {
    "compare_peers": _peers,
    "changed": _changed,
    "data_path": _data_path,
    "fair_shares": _fair_shares,
    "compare_gc": _compare_gc,
    "mover_memory": _memory,
    "latency": _latency,
    "predicted_rate": _predicted,
}


if __name__ == "__main__":
    sys.exit(main())
