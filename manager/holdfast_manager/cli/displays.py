"""How a followed session looks: bars on a terminal, plain lines elsewhere, JSON lines, or nothing. All on stderr,
but for JSON lines, which are a result."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click
import msgspec

from holdfast_agent.model.stats import TransferCounters
from holdfast_manager.catalog.values import EventEntry
from holdfast_manager.reports.names import Names
from holdfast_manager.reports.progress import RateMeter, TaskProgress, gathered
from holdfast_manager.reports.steps import ROUTINE, event_text
from holdfast_manager.reports.table import printable
from holdfast_manager.reports.times import clock

from .app import App, OutputForm
from .following import Display, Look

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Between two plain lines of progress: a short job is seen to move, a long one does not fill a log."""


def display_for(app: App) -> Display:
    """Bars where somebody watches; nothing for --quiet and for programs that wait for one JSON document."""
    if app.quiet or app.output is OutputForm.JSON:
        return NoDisplay()
    return BarDisplay() if sys.stderr.isatty() else PlainDisplay(lambda line: click.echo(line, err=True))


class NoDisplay:
    """Shows nothing."""

    def __enter__(self) -> NoDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put away."""

    def show(self, look: Look) -> None:
        """Nothing."""


class JsonLines:
    """Every event as one line of JSON, as it comes, and the tasks whenever they changed: for `follow` by programs."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._tasks: tuple[Any, ...] = ()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put away."""

    def show(self, look: Look) -> None:
        for event in look.events:
            self.line({"event": event})
        if look.tasks != self._tasks:
            self._tasks = look.tasks
            self.line({"tasks": look.tasks})

    def line(self, value: Any) -> None:
        """One more line."""
        self._write(msgspec.json.encode(value).decode())


class Story:
    """Events as lines of text."""

    def __init__(self) -> None:
        self._names = Names()

    def lines(self, look: Look) -> list[str]:
        self._names.learn_tasks(look.tasks)
        counters = {(task.vm_id, task.disk_id): task.counters for task in look.tasks}
        found = []
        for event in look.events:
            self._names.learn_event(event)
            line = self._line(event, counters)
            if line:
                found.append(printable(line))
        return found

    def _line(self, event: EventEntry, counters: Mapping[tuple[str, str], TransferCounters]) -> str:
        text = event_text(event, counters)
        if not text or event.kind in ROUTINE:
            return ""
        subject = self._names.subject(event)
        step = event.data.get("at") or event.step or ""
        return f"{clock(event.time)}  {step:9}  {subject + ': ' if subject else ''}{text}"


class PlainDisplay:
    """Lines: events as they come, progress after 1, 2, 5, 10 and then every 30 seconds."""

    def __init__(self, write: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now = now
        self._story = Story()
        self._rates = RateMeter()
        self._told = 0
        self._next = now() + PAUSES_S[0]

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put away."""

    def show(self, look: Look) -> None:
        for line in self._story.lines(look):
            self._write(line)
        now = self._now()
        progress = self._rates.look(look.tasks, now)
        if now < self._next:
            return
        self._told += 1
        self._next = now + PAUSES_S[min(self._told, len(PAUSES_S) - 1)]
        for each in gathered(progress):
            self._write(printable(f"{clock(time.time())}  {'progress':9}  {each.text()}"))


class BarDisplay:
    """A bar for each task at work, and one for all that wait for slots, below the lines of what happened."""

    def __init__(self) -> None:
        self._story = Story()
        self._rates = RateMeter()
        self._bars: dict[int, TaskID] = {}
        self._progress = _bars()

    def __enter__(self) -> BarDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            self._progress.update(bar, visible=False)
        self._progress.stop()

    def show(self, look: Look) -> None:
        shown = {each.task: each for each in gathered(self._rates.look(look.tasks, time.monotonic()))}
        for task in self._bars.keys() - shown.keys():
            self._progress.update(self._bars[task], visible=False)
        for each in shown.values():
            self._update(each)
        for line in self._story.lines(look):
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _update(self, each: TaskProgress) -> None:
        if each.task not in self._bars:
            self._bars[each.task] = self._progress.add_task("", total=None, visible=False, figures="")
        self._progress.update(
            self._bars[each.task],
            description=printable(each.label),
            visible=True,
            total=each.size_bytes or None,
            completed=each.processed_bytes,
            figures=each.figures(),
        )


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(stderr=True),
        refresh_per_second=4,
    )
