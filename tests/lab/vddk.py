"""A stand-in for nbdkit's plugin vddk, which VMware's licence keeps out of tests: same parameters, same errors.

nbdkit itself is real. The stand-in checks what it is given as a vCenter would, and serves a raw file.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from lab.tools import require_tool

_NBDKIT = """#!/bin/bash
# nbdkit as it is, but that the plugin vddk is the stand-in; what it was called with is written down.
printf '%s\\n' "$@" >{folder}/arguments
arguments=()
for argument in "$@"; do
    [[ $argument == vddk ]] && arguments+=(sh {folder}/vddk) || arguments+=("$argument")
done
exec {nbdkit} "${{arguments[@]}}"
"""
_PLUGIN = """#!/bin/bash
[[ -e {folder}/values ]] || mkdir {folder}/values
fail() {{ echo "EIO $1" >&2; exit 1; }}
value() {{ cat {folder}/values/"$1" 2>/dev/null; }}
case $1 in
    config)
        case $2:$3 in
            password:-*) cat <&"${{3#-}}" >{folder}/values/password ;;
            *) printf '%s' "$3" >{folder}/values/"$2" ;;
        esac ;;
    open)
        [[ $(value user):$(value password) == {login} ]] ||
            fail "VixDiskLib_ConnectEx: Cannot complete login due to an incorrect user name or password"
        [[ $(value snapshot) =~ ^(snapshot-2)?$ ]] ||
            fail "VixDiskLib_Open: The object 'vim.vm.Snapshot' has already been deleted"
        [[ $(value file) == "[store] web/web.vmdk" ]] || fail "VixDiskLib_Open: A file was not found"
        [[ ! -e {folder}/locked ]] || fail "VixDiskLib_Open: Failed to lock the file" ;;
    get_size) stat -c %s {image} ;;
    can_multi_conn | can_write | can_flush) exit 0 ;;
    pwrite) dd of={image} conv=notrunc oflag=seek_bytes seek="$4" bs=1M status=none ;;
    flush) sync {image} ;;
    pread)
        [[ ! -e {folder}/broken ]] || fail "VixDiskLib_Read: NBD_ERR_NETWORK_CONNECT"
        dd if={image} iflag=skip_bytes,count_bytes skip="$4" count="$3" bs=1M status=none ;;
    *) exit 2 ;;
esac
"""


class Vddk:
    """A folder for the PATH. ``arguments``: with which nbdkit was called. ``values``: what the plugin was given."""

    def __init__(self, folder: Path, image: Path, user: str, password: str) -> None:
        self.folder = folder
        folder.mkdir()
        nbdkit = require_tool("nbdkit", "nbdkit")
        named = {
            "folder": str(folder),
            "image": shlex.quote(str(image)),
            "login": shlex.quote(f"{user}:{password}"),
            "nbdkit": nbdkit,
        }
        for name, text in (("nbdkit", _NBDKIT), ("vddk", _PLUGIN)):
            (folder / name).write_text(text.format(**named))
            (folder / name).chmod(0o755)

    @property
    def arguments(self) -> list[str]:
        return (self.folder / "arguments").read_text().splitlines()

    @property
    def values(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.folder / "values").iterdir()}
