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
Found = Mapping[str, Any]
_SHORT = {
    ", whole command": "",
    ", changes tracked by QEMU": ", tracked",
    "borg lz4, not encrypted, blocks of 4 MiB": "borg lz4, open, 4 MiB",
    ", not encrypted": ", open",
    ", encrypted": ", sealed",
    "qemu-img convert, zstd": "qemu-img, zstd",
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
    parts = found["parts"]
    panels = []
    for title, names in (("Full", ("bare full", "full")), ("Unchanged", ("bare unchanged", "unchanged"))):
        bars = [_part(parts, name, field) for field in ("took_s", "cpu_s") for name in names]
        panels.append(Panel(title, "s", bars))
    text = f"{found['used_mib']:,} MiB of data, medians of {found['rounds']}; wall and processor time of all processes"
    return chart("Two movers beside a bare loop of two threads", text, panels, columns=2)


def _part(parts: Mapping[str, Mapping[str, float]], name: str, field: str) -> Bar:
    kind = "wall" if field == "took_s" else "processor"
    return Bar(
        f"{'bare loop' if 'bare' in name else 'two movers'}, {kind}", parts[name][field], ours="bare" not in name
    )


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
}


if __name__ == "__main__":
    sys.exit(main())
