"""How much of a long line two movers use, by the number of streams: 1 Gbit/s and a round trip of 50 ms by default.

Two hosts in network namespaces, joined by a line whose packets take half the round trip each way
(`tests/lab/delay_line.py`); source and target with encryption, random content. The share is that of the line's bits
that carried blocks, in the time from the order to the source until it knows that all is durable: TCP's slow start and
the storing are included. Beside it plain TCP by the same line, as many connections at once. Needs root.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import results

from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId
from holdfast_agent.model.rules import TransferRules
from holdfast_agent.wire.movers import Begin, Connected, Finished, Listening
from holdfast_agent.wire.specs import BackupOrder, ReaderSpec, RestoreOrder, SourceSpec, TargetSpec, WriterSpec
from lab.delay_line import delay_line
from lab.movers import Mover, Site
from lab.network import Host, network

WORK = Path("bench-work")
MIB = 1 << 20
_PLAIN = """
import socket, sys, threading
address, port, streams, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
def send():
    with socket.create_connection((address, port)) as out:
        left, block = count // streams, bytes(1 << 20)
        while left > 0:
            out.sendall(block[:left])
            left -= len(block)
threads = [threading.Thread(target=send) for _ in range(streams)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
_PLAIN_SINK = """
import socket, sys, threading, time
address, streams = sys.argv[1], int(sys.argv[2])
server = socket.create_server((address, 0))
print(server.getsockname()[1], flush=True)
accepted = [server.accept()[0] for _ in range(streams)]
began = time.monotonic()
def drain(end):
    while end.recv(1 << 20):
        pass
threads = [threading.Thread(target=drain, args=(end,)) for end in accepted]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(time.monotonic() - began, flush=True)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--mbit", type=int, default=1000, help="what the line carries, in Mbit/s")
    parser.add_argument("--round-trip-ms", type=int, default=50)
    given = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    rate, delay_s = given.mbit * 125_000, given.round_trip_ms / 2000
    print("| streams | plain TCP | backup | restore |\n|---|---|---|---|")
    runs = []
    with network(["proxy", "vault"]) as (proxy, vault), delay_line(proxy, vault, delay_s, rate) as line:
        for streams in given.streams:
            took = [_round(proxy, vault, line[1], streams, given.size_mib) for _ in range(given.rounds)]
            plain, backup, restore = (statistics.median(column) / rate for column in zip(*took, strict=True))
            print(f"| {streams} | {plain:.0%} | {backup:.0%} | {restore:.0%} |", flush=True)
            runs.append({"streams": streams, "plain": plain, "backup": backup, "restore": restore})
    line_of = {"mbit": given.mbit, "round_trip_ms": given.round_trip_ms}
    results.write("latency", {"size_mib": given.size_mib, "rounds": given.rounds, **line_of, "runs": runs})
    return 0


def _round(proxy: Host, vault: Host, address: str, streams: int, size_mib: int) -> tuple[float, float, float]:
    """Bytes of content per second: plain TCP, backup, restore."""
    with tempfile.TemporaryDirectory(prefix="latency-", dir=WORK) as name:
        site = Site(Path(name).resolve())
        disk = site.folder / "disks" / "disk.raw"
        with disk.open("wb") as file:
            for _ in range(size_mib):
                file.write(os.urandom(MIB))
        plain = _plain(proxy, vault, address, streams, size_mib * MIB)
        return plain, *_movers(proxy, vault, site, address, streams, Geometry(size_mib * MIB))


def _plain(proxy: Host, vault: Host, address: str, streams: int, count: int) -> float:
    sink = vault.start(sys.executable, "-c", _PLAIN_SINK, address, str(streams), stdout=-1)
    assert sink.stdout is not None
    proxy.run(sys.executable, "-c", _PLAIN, address, sink.stdout.readline().decode().strip(), str(streams), str(count))
    seconds = float(sink.stdout.readline())
    sink.wait()
    sink.stdout.close()
    return count / seconds


def _movers(
    proxy: Host, vault: Host, site: Site, address: str, streams: int, geometry: Geometry
) -> tuple[float, float]:
    host = site.host(listen_address=address, advertised_addresses=(address,))
    repository = str(site.folder / "repository")
    rules = TransferRules(streams=streams)
    with site.session() as session:
        secret = secrets.token_bytes(32)
        target_spec = TargetSpec(task_id="t", secret=secret, repository=repository, sid=session.sid, mover=1)
        with Mover(target_spec, host, vault.command()) as target:
            ends = target.expect(Listening).endpoints
            source_spec = SourceSpec(task_id="t", secret=secret, endpoints=ends, keys=site.keys, rules=rules)
            with Mover(source_spec, host, proxy.command()) as source:
                order = BackupOrder(
                    geometry=geometry, disks=(f"file:{site.folder}/disks/disk.raw",), mode=ChangeMode.FULL
                )
                seconds, root = _timed(source, target, Begin(order=order))
    backup = geometry.size_bytes / seconds
    assert root is not None
    secret = secrets.token_bytes(32)
    with Mover(ReaderSpec(task_id="t", secret=secret, repository=repository), host, vault.command()) as reader:
        ends = reader.expect(Listening).endpoints
        writer_spec = WriterSpec(task_id="t", secret=secret, endpoints=ends, keys=site.keys, rules=rules)
        with Mover(writer_spec, host, proxy.command()) as writer:
            to = f"file:{site.folder}/disks/restored.raw"
            seconds, _ = _timed(writer, reader, Begin(order=RestoreOrder(geometry=geometry, root=root, disk=to)))
    return backup, geometry.size_bytes / seconds


def _timed(leads: Mover, serves: Mover, begin: Begin) -> tuple[float, BlockId | None]:
    for mover in (leads, serves):
        mover.expect(Connected)
    began = time.monotonic()
    leads.send(begin)
    done = leads.expect(Finished, 300)
    seconds = time.monotonic() - began
    serves.expect(Finished)
    return seconds, done.result.root


if __name__ == "__main__":
    raise SystemExit(main())
