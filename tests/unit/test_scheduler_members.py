"""Which member of a group gets a VM's next point: the invariants with random input, and the stories people tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast_manager.catalog.values import PlacingPolicy
from holdfast_manager.scheduler.members import Choice, Member, VmData, choose

GIB = 1 << 30
LOCALITY, CAPACITY = PlacingPolicy.LOCALITY, PlacingPolicy.CAPACITY

sizes = st.integers(0, 100).map(lambda gib: gib * GIB)
members = st.lists(
    st.builds(
        Member,
        name=st.sampled_from("abcdef"),
        free_bytes=sizes,
        obstacle=st.sampled_from(["", "", "", "is sealed", "is on a disabled agent"]),
    ),
    max_size=6,
    unique_by=lambda member: member.name,
)
vms = st.builds(
    VmData, whole_bytes=sizes, grows_bytes=sizes, newest=st.dictionaries(st.sampled_from("abcdefg"), st.floats(0, 9))
)


@given(
    st.sampled_from(PlacingPolicy), sizes, members, st.dictionaries(st.sampled_from("abcdef"), sizes), vms, st.randoms()
)
def test_the_invariants_hold(policy, floor, given_members, promised, vm, chance) -> None:
    found = choose(policy, floor, given_members, promised, vm)
    room = {each.name: each.free_bytes - promised.get(each.name, 0) for each in given_members}
    able = {each.name for each in given_members if not each.obstacle and room[each.name] > floor}
    shuffled = list(given_members)
    chance.shuffle(shuffled)
    assert choose(policy, floor, shuffled, promised, vm) == found
    if not able:
        assert found.member is None
        assert all(each.name in found.reason for each in given_members)
        return
    assert found.member in able, "a member that is full, sealed or away was chosen"
    known = {name: when for name, when in vm.newest.items() if name in room}
    if policy is LOCALITY and known:
        newest = max(known.values())
        homes = {name for name, when in known.items() if when == newest}
        if homes <= able:
            assert found.member in homes, "it has left its member without need"
            return
        if len(homes) == 1 and not homes & able:
            assert next(iter(homes)) in found.reason, "why it has left is not told"
    if policy is CAPACITY:
        left = {name: room[name] - (vm.grows_bytes if name in vm.newest else vm.whole_bytes) for name in able}
        assert left[found.member] == max(left.values())


def at(*free: int, **obstacles: str) -> list[Member]:
    return [
        Member(name=name, free_bytes=gib * GIB, obstacle=obstacles.get(name, ""))
        for name, gib in zip("abc", free, strict=False)
    ]


def test_a_vm_stays_until_its_member_cannot_and_then_says_why() -> None:
    vm = VmData(whole_bytes=10 * GIB, grows_bytes=GIB, newest={"a": 5.0, "b": 3.0})
    assert choose(LOCALITY, GIB, at(2, 90, 50), {}, vm).member == "a"
    sealed = choose(LOCALITY, GIB, at(20, 30, 50, a="is sealed"), {}, vm)
    assert sealed == Choice(
        member="c", reason="most room: 50.0 GiB free; a, which has the VM's points, is sealed", takes_bytes=10 * GIB
    )
    full = choose(LOCALITY, 5 * GIB, at(5, 7), {}, vm)
    assert full.member == "b"
    assert "a, which has the VM's points, is full (5.00 GiB free, its floor is 5.00 GiB)" in full.reason
    assert choose(LOCALITY, GIB, at(1, 90, a="", b="is sealed"), {}, vm).member is None


def test_by_capacity_a_vm_moves_only_when_that_gains_more_than_it_takes() -> None:
    vm = VmData(whole_bytes=10 * GIB, grows_bytes=GIB, newest={"a": 5.0})
    assert choose(CAPACITY, GIB, at(50, 58), {}, vm).member == "a"
    assert choose(CAPACITY, GIB, at(50, 60), {}, vm).member == "b"


def test_vms_that_come_at_once_are_spread_by_what_was_promised() -> None:
    promised: dict[str, int] = {}
    chosen = []
    for _ in range(4):
        found = choose(LOCALITY, GIB, at(50, 45), promised, VmData(whole_bytes=10 * GIB, grows_bytes=GIB))
        assert found.member is not None
        promised[found.member] = promised.get(found.member, 0) + found.takes_bytes
        chosen.append(found.member)
    assert chosen == ["a", "b", "a", "b"]
