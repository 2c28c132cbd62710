"""`holdfast benchmark`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from holdfast_agent.errors import Locked
from holdfast_agent.model.rules import Compression, TransferRules
from holdfast_agent.model.units import format_rate, format_size, parse_size
from holdfast_manager.reports.table import facts, indented, table

from .app import App, OutputForm, pass_app
from .commands import Command
from .naming import chosen_proxy

if TYPE_CHECKING:
    from holdfast_agent.model.stats import TransferCounters
    from holdfast_agent.wire.specs import BenchmarkStage
    from holdfast_manager.benchmarking.prediction import Prediction, StageRate

_WHAT = {"read": "reading", "send": "sending", "store": "storing"}


@click.command(
    cls=Command,
    examples=(
        "holdfast benchmark proxy1 main",
        "holdfast benchmark proxy1 main --disk file:/srv/vms/web/disk.raw --size '4 GiB'",
    ),
)
@click.argument("proxy")
@click.argument("repository")
@click.option("--disk", default="", metavar="URL", help="Read this disk. Default: a load that the proxy makes up.")
@click.option("--size", default="1 GiB", show_default=True, metavar="SIZE", help="How much to measure with.")
@click.option("--compression", type=click.Choice([each.value for each in Compression]), default=Compression.LZ4.value,
              show_default=True, help="As the job's.")  # fmt: skip
@click.option("--streams", type=click.IntRange(1, 16), default=1, show_default=True, help="As the job's.")
@click.option("--changed", type=click.FloatRange(0, 100), default=5.0, show_default=True, metavar="PERCENT",
              help="How much of the disk an incremental finds changed.")  # fmt: skip
@click.option("--beside-others", is_flag=True, help="Also while sessions work there; the rates are then lower.")
@pass_app
def benchmark(
    app: App,
    proxy: str,
    repository: str,
    disk: str,
    size: str,
    compression: str,
    streams: int,
    changed: float,
    beside_others: bool,
) -> None:
    """Measure what a proxy and a repository can do together, and predict what a job will.

    Real movers transfer the same data three times: up to the ids of its blocks, over the network, and into a throw-away
    target on the repository's storage. Nothing of it stays; the repository itself is not written to. It takes no slots,
    and no traffic rule holds: beside a session that works on either host it is refused, and one that begins meanwhile
    is slower and makes what is measured too low, which is told.
    """
    from holdfast_agent.wire.specs import BenchmarkStage
    from holdfast_manager.benchmarking.neighbours import neighbours
    from holdfast_manager.benchmarking.passes import Wish, measure
    from holdfast_manager.benchmarking.prediction import predict

    wish = Wish(
        proxy=chosen_proxy(app.catalog, proxy),
        repository=repository,
        disk=disk,
        size_bytes=parse_size(size),
        rules=TransferRules(Compression(compression), streams),
    )
    before = neighbours(app.catalog, wish.proxy, repository)
    if before and not beside_others:
        holder = f"{_sessions(before)} (--beside-others measures all the same)"
        raise Locked(what=f"the host of proxy {wish.proxy} or of repository {repository}", holder=holder)
    progress = _Progress(app)
    found = measure(app.catalog, wish, app.keys, app.settings.timing, progress.tell)
    progress.end()
    beside = tuple(sorted({*before, *neighbours(app.catalog, wish.proxy, repository)}))
    if beside:
        app.out.warning(f"{_sessions(beside)} worked there meanwhile: alone, both are faster than what was measured")
    prediction = predict(found[BenchmarkStage.READ], found[BenchmarkStage.SEND], found[BenchmarkStage.STORE], changed)
    passes = {stage.value: counters for stage, counters in found.items()}
    measured = {"prediction": prediction, "passes": passes}
    document = {"proxy": proxy, "repository": repository, "beside_sessions": beside, **measured}
    app.out.result(document, lambda: _text(proxy, repository, prediction, found))


def _sessions(numbers: tuple[int, ...]) -> str:
    return f"session{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


class _Progress:
    """A line that is written over on a terminal, a line for each pass elsewhere; nothing for programs."""

    def __init__(self, app: App) -> None:
        self._silent = app.quiet or app.output is OutputForm.JSON
        self._live = sys.stderr.isatty()
        self._stage = ""
        self._next = 0.0

    def tell(self, stage: BenchmarkStage, counters: TransferCounters) -> None:
        now = time.monotonic()
        if self._silent or (stage.value == self._stage and (not self._live or now < self._next)):
            return
        self._stage, self._next = stage.value, now + 0.5
        rate = counters.processed_bytes / counters.elapsed_s if counters.elapsed_s else 0.0
        done = f"{format_size(counters.processed_bytes)}, {format_rate(rate)}" if counters.processed_bytes else "…"
        text = f"{_WHAT[stage.value]}: {done}"
        click.echo(f"\r{text:60}" if self._live else f"{_WHAT[stage.value]} …", nl=not self._live, err=True)

    def end(self) -> None:
        if self._live and not self._silent:
            click.echo(f"\r{'':60}\r", nl=False, err=True)


def _text(proxy: str, repository: str, prediction: Prediction, found: dict[BenchmarkStage, TransferCounters]) -> str:
    size = format_size(max(counters.processed_bytes for counters in found.values()))
    rows = [(each.stage, each.what, _rate(each)) for each in prediction.stages]
    full = f"{format_rate(prediction.full_bytes_per_s)}, bottleneck {prediction.bottleneck_full}"
    changed = f"{prediction.changed_percent:g} % changed"
    incremental = (
        f"{format_rate(prediction.incremental_bytes_per_s)} by digest with {changed}, "
        f"bottleneck {prediction.bottleneck_incremental}"
    )
    pairs = [
        ("Full", f"{full}\n{prediction.load_full}"),
        ("Incremental", f"{incremental}\n{prediction.load_incremental}"),
        ("With tracking", f"{format_rate(prediction.full_bytes_per_s)} of what changed"),
        ("Compression", f"x {prediction.ratio:.1f}"),
    ]
    return (
        f"Proxy {proxy} and repository {repository}, measured with {size}\n\n"
        f"Stages, each for itself\n{indented(table(('stage', 'what', 'rate'), rows, right=('rate',)))}\n\n"
        f"A job can expect, for one disk at a time\n{indented(facts(pairs))}"
    )


def _rate(stage: StageRate) -> str:
    if stage.bytes_per_s is None:
        return "too fast to measure"
    return f"{'at least ' if stage.at_least else ''}{format_rate(stage.bytes_per_s)}"
