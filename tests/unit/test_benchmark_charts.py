"""Charts say what was measured: every bar from 0, as long as its value on the axis beside it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"
FOUND = {
    "cores": 2,
    "disks": 2,
    "size_mib": 1024,
    "runs": [{"slots": 1, "run": "full", "each_s": [1.5, 3.0], "step_s": 4.6}],
}


def test_bars_are_as_long_as_what_they_stand_for(tmp_path: Path) -> None:
    (tmp_path / "fair_shares.json").write_text(json.dumps(FOUND))
    command = [sys.executable, ROOT / "benchmarks" / "draw.py", "--from", tmp_path, "--to", tmp_path / "drawn"]
    subprocess.run(command, check=True, capture_output=True)
    drawn = list((tmp_path / "drawn").iterdir())
    assert [path.name for path in drawn] == ["fair_shares.svg"], "what was not measured is not drawn"
    chart = ET.parse(drawn[0]).getroot()  # noqa: S314 - our own
    bars = [(float(bar.attrib["x"]), float(bar.attrib["width"])) for bar in chart.iter(f"{SVG}rect")]
    assert len({start for start, _ in bars}) == 1, "all begin at 0"
    lines = {float(line.attrib["x1"]) for line in chart.iter(f"{SVG}line")}
    labels = [(float(text.attrib["x"]), text.text or "") for text in chart.iter(f"{SVG}text")]
    axis = {float(text): at for at, text in labels if at in lines and text.replace(".", "").isdigit()}
    scale = (axis[4.0] - axis[0.0]) / 4
    assert axis[0.0] == bars[0][0]
    assert [round(width / scale, 1) for _, width in bars] == [1.5, 3.0, 4.6]


def test_the_pages_charts_are_those_that_are_drawn_from_what_was_measured() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    shown = re.findall(r"\]\(figures/(\w+)\.svg\)", page)
    drawn = re.findall(r'^    "(\w+)": _', (ROOT / "benchmarks" / "draw.py").read_text(), re.MULTILINE)
    assert len(shown) == len(set(shown)) > 5
    assert sorted(shown) == sorted(drawn)
    assert all((ROOT / "docs" / "figures" / f"{name}.svg").exists() for name in shown)
    writers = [path.read_text() for path in (ROOT / "benchmarks").glob("*.py")]
    for name in drawn:
        assert any(f'"{name}",' in text and "results.write(" in text for text in writers), f"nobody measures {name}"


def test_a_data_path_is_drawn_from_what_its_benchmark_writes(tmp_path: Path) -> None:
    names = ("bare full", "bare unchanged", *(f"{what}, {how}" for what in ("full", "unchanged", "restore")
                                             for how in ("one process", "two")))  # fmt: skip
    parts = {name: {"took_s": 1.0, "cpu_s": 2.0, "ratio": None} for name in names}
    found = {"used_mib": 10, "rounds": 1, "parts": parts}
    (tmp_path / "data_path.json").write_text(json.dumps(found))
    command = [sys.executable, ROOT / "benchmarks" / "draw.py", "--from", tmp_path, "--to", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    assert len(list(ET.parse(tmp_path / "data_path.svg").getroot().iter(f"{SVG}rect"))) == 12  # noqa: S314 - our own


def test_every_benchmark_is_run_by_make_bench_and_one_that_lacks_a_program_says_so() -> None:
    everything = ROOT / "benchmarks" / "everything.py"
    parts = set(re.findall(r'^    Part\("(\w+)"', everything.read_text(), re.MULTILINE))
    alone = {path.stem for path in everything.parent.glob("*.py") if "__main__" in path.read_text()}
    assert alone - {"everything", "draw"} == parts
    command = [sys.executable, everything, "--part", "disks", "--size-mib", "1"]
    done = subprocess.run(command, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False)
    assert done.returncode == 77, done.stderr
    assert "disks: qemu-nbd is not installed; Debian and Ubuntu: apt install qemu-utils" in done.stdout
