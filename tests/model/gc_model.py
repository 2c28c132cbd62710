"""A model of the collector's protocol: writers, collectors and a pruner as small programs that a seed interleaves.

Pure Python and nothing of the product: each program is a generator that yields before every step which others can see.
A history is one interleaving; a program may crash at any yield (never to be run again) or be suspended for long. The
invariant: what a committed point that was not pruned refers to has a home in a pack.

``Rules`` are the rules of the protocol. Each can be taken away, and then some history must break the invariant: that is
how the tests know that the model looks at what matters.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

RECORDS = "abcd"
"""Few, so that writers meet: most blocks that one wants another has stored."""

Program = Iterator[None]
Judging = Generator[None, None, frozenset[str]]


@dataclass(frozen=True)
class Rules:
    """All true is the protocol."""

    list_again: bool = True
    """The roots are listed and marked again after the drain."""
    drain: bool = True
    """Sessions that were there when the list was published are waited for."""
    record_first: bool = True
    """A writer makes its session record before it reads the collector's log."""
    honour_fence: bool = True
    """A writer that finds its outcome taken has failed."""
    avoid: bool = True
    """A writer refers to nothing in condemned packs."""
    one_generation: bool = True
    """A generation begins only when the one before is done."""
    check_inherited: bool = True
    """Ids that are inherited from the base are looked up like all others."""
    sweep_once: bool = True
    """The sweep is published before anything is deleted, and only what was published first is deleted."""
    condemn_once: bool = True
    """A collector that finds a condemned list adopts it."""
    keep_last_home: bool = True
    """A condemned pack that holds the only home of something live is left out of the sweep."""


RULES = tuple(Rules.__dataclass_fields__)


class Broken(AssertionError):
    """A committed point lost a record."""


@dataclass
class World:
    """What is durable, plus who is alive: the lock of a session is free once its writer is dead."""

    packs: dict[str, frozenset[str]] = field(default_factory=dict)
    sessions: set[str] = field(default_factory=set)
    outcomes: dict[str, frozenset[str] | None] = field(default_factory=dict)
    pruned: set[str] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)
    condemned: dict[int, frozenset[str]] = field(default_factory=dict)
    swept: dict[int, frozenset[str]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    suspended: dict[str, int] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)

    def say(self, who: str, what: str) -> None:
        self.story.append(f"{who}: {what}")

    def roots(self) -> dict[str, frozenset[str]]:
        return {sid: point for sid, point in self.outcomes.items() if point is not None and sid not in self.pruned}

    def needed(self) -> frozenset[str]:
        return frozenset[str]().union(*self.roots().values())

    def homes(self, record: str, without: frozenset[str] = frozenset()) -> list[str]:
        return sorted(name for name, held in self.packs.items() if record in held and name not in without)

    def check(self) -> None:
        """Called after every step that could break it: a commit, a removal."""
        for sid, needed in self.roots().items():
            lost = [record for record in needed if not self.homes(record)]
            if lost:
                raise Broken(f"point {sid} lost {', '.join(lost)}")


@dataclass
class Actors:
    """The programs of one history. ``rng`` decides every choice."""

    world: World
    rules: Rules
    rng: random.Random
    names: Iterator[int]

    def writer(self, who: str) -> Program:
        """One backup after the other; some die on the way."""
        for _ in range(3):
            yield from self._backup(f"{who}{next(self.names)}")

    def _backup(self, sid: str) -> Program:
        world, rules = self.world, self.rules
        if rules.record_first:
            world.sessions.add(sid)
            yield
        avoided = self._avoided()
        yield
        if not rules.record_first:
            world.sessions.add(sid)
            yield
        known = {
            name: held for name, held in world.packs.items() if name not in avoided
        }  # the index, brought up to date
        points = world.roots()
        base = points[self.rng.choice(sorted(points))] if points and self.rng.random() < 0.7 else frozenset[str]()
        yield
        wanted = frozenset(self.rng.sample(RECORDS, self.rng.randint(1, len(RECORDS))))
        unsafe = frozenset(r for r in base if not any(r in held for held in known.values()))
        inherited = base - unsafe if rules.check_inherited else base
        missing = (wanted | (unsafe if rules.check_inherited else frozenset())) - inherited
        missing = frozenset(r for r in missing if not any(r in held for held in known.values()))
        for number, part in enumerate(self._split(missing)):
            yield
            world.packs[f"{sid}-{number}"] = part
            world.say(sid, f"pack {number} holds {''.join(sorted(part))}")
        yield
        taken = sid in world.outcomes
        if not taken or not rules.honour_fence:
            world.say(sid, f"commits {''.join(sorted(wanted | base))}")
            world.outcomes[sid] = wanted | base
            world.check()
        yield
        world.sessions.discard(sid)

    def _split(self, records: frozenset[str]) -> list[frozenset[str]]:
        if len(records) < 2 or self.rng.random() < 0.5:
            return [records] if records else []
        first = frozenset(self.rng.sample(sorted(records), len(records) // 2))
        return [first, records - first]

    def _avoided(self) -> frozenset[str]:
        world = self.world
        if not self.rules.avoid:
            return frozenset()
        unfinished = [packs for g, packs in world.condemned.items() if g not in world.done]
        last = max(world.done, default=0)
        swept = [packs for g, packs in world.swept.items() if g not in world.done or g == last]
        return frozenset[str]().union(*unfinished, *swept)

    def pruner(self, who: str) -> Program:
        for _ in range(8):
            yield
            points = sorted(self.world.roots())
            if points:
                sid = self.rng.choice(points)
                self.world.pruned.add(sid)
                self.world.say(who, f"pruned {sid}")

    def collector(self, who: str) -> Program:
        for _ in range(3):
            yield from self._generation(who)

    def _generation(self, who: str) -> Program:
        world, rules = self.world, self.rules
        newest = max(world.begun, default=0)
        open_one = newest and newest not in world.done
        number = newest if open_one and (rules.one_generation or self.rng.random() < 0.5) else newest + 1
        yield
        world.begun.add(number)
        first_mark = world.needed()
        yield
        condemned = world.condemned.get(number)
        if condemned is None or not rules.condemn_once:
            condemned = yield from self._choose(who)
            yield
            if number not in world.condemned or not rules.condemn_once:
                world.condemned[number] = condemned
                world.say(who, f"generation {number} condemns {sorted(condemned)}")
            if rules.condemn_once:
                condemned = world.condemned[number]
        yield
        if rules.drain:
            yield from self._drain(who)
        swept = world.swept.get(number)
        if swept is None or not rules.sweep_once:
            swept = yield from self._judge(condemned, first_mark)
            yield
            if rules.sweep_once:
                swept = world.swept.setdefault(number, swept)
            else:
                world.swept[number] = swept
            world.say(who, f"generation {number} sweeps {sorted(swept)}")
        for pack in sorted(swept):
            yield
            world.say(who, f"removes {pack}")
            if world.packs.pop(pack, None) is not None:
                world.check()
        yield
        world.done.add(number)

    def _choose(self, who: str) -> Judging:
        """Mark, copy what sparse packs hold, and name the packs that are empty by then."""
        world = self.world
        packs = dict(world.packs)
        active = frozenset(world.sessions)
        yield
        needed = world.needed()
        yield
        dead: set[str] = set()
        for name in self.rng.sample(sorted(packs), len(packs)):
            if name.rpartition("-")[0] in active:
                continue
            live = packs[name] & needed
            staying = frozenset(dead | {name})
            elsewhere = {r for r in live if any(r in held for other, held in packs.items() if other not in staying)}
            if live - elsewhere and len(live) * 2 <= len(packs[name]) and self.rng.random() < 0.7:
                sid = f"{who}{next(self.names)}"
                world.sessions.add(sid)
                yield
                copied = live - elsewhere
                world.packs[f"{sid}-0"] = packs[f"{sid}-0"] = copied
                world.say(who, f"copied {''.join(sorted(copied))} to {sid}-0")
                yield
                world.outcomes.setdefault(sid, None)
                world.sessions.discard(sid)
                elsewhere |= copied
            if live <= elsewhere:
                dead.add(name)
        return frozenset(dead)

    def _drain(self, who: str) -> Program:
        left = set(self.world.sessions)
        while left:
            for sid in sorted(left):
                if sid in self.world.outcomes or sid not in self.world.sessions:
                    left.discard(sid)
                elif self._seems_dead(sid.rstrip("0123456789")):
                    self.world.outcomes[sid] = None
                    self.world.sessions.discard(sid)
                    self.world.say(who, f"fenced {sid}")
                    left.discard(sid)
            yield

    def _seems_dead(self, who: str) -> bool:
        """Its lock is free; or, in an object store, its lease is long over, though it may only be suspended."""
        return who in self.world.dead or (self.world.suspended.get(who, 0) > 0 and self.rng.random() < 0.2)

    def _judge(self, condemned: frozenset[str], first_mark: frozenset[str]) -> Judging:
        world, rules = self.world, self.rules
        needed = world.needed() if rules.list_again else first_mark
        yield
        if not rules.keep_last_home:
            return condemned
        held = [r for r in needed if not world.homes(r, without=condemned)]
        return frozenset(name for name in condemned if not any(r in world.packs.get(name, ()) for r in held))


def run_history(seed: int, rules: Rules = Rules()) -> World:
    """One interleaving; raises :class:`Broken` with its story when a committed point loses a record."""
    rng = random.Random(seed)
    world = World()
    names = iter(range(1, 1 << 30))
    programs: dict[str, Program] = {}
    makers: dict[str, Callable[[Actors, str], Program]] = {
        "A": Actors.writer, "B": Actors.writer, "C": Actors.writer, "P": Actors.pruner,
        "X": Actors.collector, "Y": Actors.collector,
    }  # fmt: skip
    for who, make in makers.items():
        programs[who] = make(Actors(world, rules, random.Random(rng.random()), names), who)
    suspended = world.suspended
    successors = 0
    while programs:
        who = rng.choice(list(programs))
        if suspended.get(who, 0) > 0:
            suspended[who] -= 1
            continue
        chance = rng.random()
        if chance < 0.01:
            suspended[who] = rng.randint(5, 60)
            continue
        if chance < 0.025 and who != "P":
            del programs[who]
            world.dead.add(who)
            world.say(who, "dies")
            if successors < 4:  # somebody else takes over, under another name
                successors += 1
                heir = f"{who[0]}{'x' * successors}"
                programs[heir] = makers[who[0]](Actors(world, rules, random.Random(rng.random()), names), heir)
            continue
        try:
            next(programs[who])
        except StopIteration:
            del programs[who]
        except Broken as broken:
            raise Broken("\n".join([*world.story, f"seed {seed}: {broken}"])) from None
    return world
