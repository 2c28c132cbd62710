"""From the counters of three passes to the rates of the stages and of jobs. Pure.

READ goes to the ids of what is read, SEND over the network without compressing, STORE all the way. A stage's rate is
what it does in the time in which it is busy; what two passes have in common is taken off the later one.
"""

from __future__ import annotations

import msgspec

from holdfast_agent.model.stats import TransferCounters, bottleneck, load_line

_LEAST_BUSY_S = 0.02  # what took less says nothing


class StageRate(msgspec.Struct, frozen=True, kw_only=True):
    """``stage`` is its name in the load line. ``bytes_per_s``: of the plain disk; None: too fast to be measured.

    ``at_least``: something else was the limit.
    """

    stage: str
    what: str
    bytes_per_s: float | None
    at_least: bool = False


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What to expect of a job. Rates are in bytes of the disk per second, for one task at a time.

    ``full``: also of the changed areas alone, where change tracking names them. ``unchanged``: comparing by digest what
    did not change. ``incremental``: the same with ``changed_percent`` of the disk changed. ``ratio``: by which
    compression shrinks what is sent.
    """

    full_bytes_per_s: float
    unchanged_bytes_per_s: float
    incremental_bytes_per_s: float
    changed_percent: float
    ratio: float
    bottleneck_full: str
    bottleneck_incremental: str
    load_full: str
    load_incremental: str
    stages: tuple[StageRate, ...]


def predict(
    read: TransferCounters, send: TransferCounters, store: TransferCounters, changed_percent: float
) -> Prediction:
    """``read``, ``send``, ``store``: what the passes counted, each of the same amount of data."""
    source = _rate(read.read_bytes, read.stages.source_s)
    through = store.processed_bytes / store.elapsed_s
    # Later passes may find the disk in a cache; a job finds it there no more often than the first pass did.
    held = source is not None and source < through
    full = source if source is not None and held else through
    unchanged = read.processed_bytes / read.elapsed_s
    changed = changed_percent / 100
    return Prediction(
        full_bytes_per_s=full,
        unchanged_bytes_per_s=unchanged,
        incremental_bytes_per_s=1 / ((1 - changed) / unchanged + changed / full),
        changed_percent=changed_percent,
        ratio=store.sent_bytes / store.transferred_bytes if store.transferred_bytes else 1.0,
        bottleneck_full="source" if held else bottleneck(store.stages),
        bottleneck_incremental=bottleneck(read.stages),
        load_full=load_line(store.stages, store.elapsed_s),
        load_incremental=load_line(read.stages, read.elapsed_s),
        stages=(
            StageRate(stage="source", what="read", bytes_per_s=source),
            StageRate(stage="proxy", what="ids", bytes_per_s=_rate(read.read_bytes, read.stages.proxy_s)),
            StageRate(stage="proxy", what="seal", bytes_per_s=_beyond(send, read)),
            StageRate(stage="proxy", what="compress", bytes_per_s=_beyond(store, send)),
            StageRate(
                stage="network",
                what="send",
                bytes_per_s=send.transferred_bytes / send.elapsed_s if send.elapsed_s else None,
                at_least=bottleneck(send.stages) != "network",
            ),
            StageRate(stage="target", what="store", bytes_per_s=_rate(store.stored_bytes, store.stages.target_s)),
        ),
    )


def _rate(count_bytes: int, busy_s: float) -> float | None:
    return count_bytes / busy_s if busy_s >= _LEAST_BUSY_S else None


def _beyond(later: TransferCounters, earlier: TransferCounters) -> float | None:
    """The rate of what the proxy does in a pass besides what it did in the one before."""
    return _rate(later.sent_bytes, later.stages.proxy_s - earlier.stages.proxy_s)
