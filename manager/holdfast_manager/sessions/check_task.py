"""Level 2 of a verification as one task: a proxy that holds the key proves every distinct record of all points."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_agent.model.ids import BlockId
from holdfast_agent.model.points import Point
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.roots import root_id
from holdfast_agent.wire.messages import VerifyBudget
from holdfast_agent.wire.specs import BlockTree, CheckerSpec, CheckOrder, MoverResult

from .events import Event, MoversStarted, TaskKey, TransferBegan
from .pair_tasks import PairTasks
from .tasks import Context


class CheckTask(PairTasks):
    """One task with one order."""

    def __init__(self, context: Context, keys: RepositoryKeys, proxy: str, budget: VerifyBudget) -> None:
        super().__init__(context, proxy)
        self._keys = keys
        self._budget = budget
        self._trees: tuple[BlockTree, ...] = ()
        self._given = False
        self._key = TaskKey(context.repository.name, "level 2")

    def add(self, points: Sequence[Point]) -> TaskKey:
        """What is to be checked; before the machine is told of the task. Trees that are the same count once."""
        trees: dict[tuple[BlockId, int, int], BlockTree] = {}
        for point in points:
            for disk in point.disks:
                tree = BlockTree(root_id(disk.root), disk.geometry)
                trees[tree.root, disk.size_bytes, disk.block_log2] = tree
        self._trees = tuple(trees.values())
        self._given = True
        size = sum(tree.geometry.size_bytes for tree in self._trees)
        self._context.recorder.add_task(self._key, self._context.repository.name, f"{len(points)} points", size)
        return self._key

    @property
    def result(self) -> MoverResult | None:
        """What the checker found; None where nothing was given to it. Asked for when the session's tasks have finished.

        Raises ``MoverDied`` where it has not told: that is never to be taken for "nothing was wrong". Whether the task
        was released says nothing, for that is done meanwhile, by another worker.
        """
        return self._context.desk.outcome(self._key).connector if self._given else None

    def start(self, key: TaskKey) -> Event:
        self.start_reader(
            key,
            lambda name, secret, endpoints: CheckerSpec(
                task_id=name, secret=secret, endpoints=endpoints, keys=self._keys.opening_keys()
            ),
        )
        return MoversStarted(task=key, rules="every distinct block is checked once by its id")

    def begin(self, key: TaskKey) -> Event:
        order = CheckOrder(
            trees=self._trees,
            max_duration_s=self._budget.max_duration_s,
            sample_percent=self._budget.sample_percent,
        )
        self.work.begin(key, order, reads=self._context.repository.name)
        return TransferBegan(task=key, mode=None, reason="checked only")
