"""Charts say what was measured: every bar from 0, as long as its value on the axis beside it."""

from __future__ import annotations

import json
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
