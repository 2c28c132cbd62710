"""What each step of a restore of files does: an export that nobody keeps, and a reader of the file systems on it."""

from __future__ import annotations

from holdfast_agent.model.units import format_size
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.wire.files import FetchFiles, FilesFound, FilesWish, MountFiles
from holdfast_agent.wire.messages import MoverState
from holdfast_agent.wire.specs import FilesSpec
from holdfast_manager.reports.table import printable

from .events import TransferFinished
from .export_users import ExportUser
from .requests import FilesRequest
from .tasks import Context

_MOST_NOTED = 20


class FilesActions(ExportUser):
    """A restore of files, or a mount."""

    def __init__(self, context: Context, request: FilesRequest, keys: RepositoryKeys) -> None:
        super().__init__(context, request, keys)
        self._wanted = request
        self._found: FilesFound | None = None

    def program(self, export: str, disks: tuple[str, ...]) -> tuple[FilesSpec, str]:
        wanted = self._wanted
        wish: FilesWish = MountFiles(target=wanted.target, to_others=wanted.to_others)
        if not wanted.mount:
            wish = FetchFiles(
                paths=wanted.paths, target=wanted.target, overwrite=wanted.overwrite, setuid=wanted.setuid
            )
        spec = FilesSpec(task_id=export, secret=b"", export=export, disks=disks, wish=wish, volume=wanted.volume)
        return spec, f"{'mounted at' if wanted.mount else 'to'} {wanted.target} on {wanted.proxy}"

    def _ended(self, state: MoverState) -> None:
        found = state.result.files if state.result is not None else None
        if found is None:
            super()._ended(state)
            return
        self._found = found
        self._context.recorder.progress(self._key, state.counters)
        for complaint in found.complaints[:_MOST_NOTED]:
            self._context.recorder.note(printable(complaint), "warning")
        if found.complained > _MOST_NOTED:
            more = found.complained - _MOST_NOTED
            self._context.recorder.note(f"{more} more things could not be restored as they were", "warning")
        self._context.driver.post(TransferFinished(task=self._key, mode=None, reason=self.told()))

    def told(self) -> str:
        if self._wanted.mount:
            return f"{self._wanted.target} was unmounted"
        found = self._found or FilesFound()
        counts = ((found.files, "file"), (found.folders, "folder"), (found.links, "link"))
        told = [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count]
        return f"{', '.join(told) or 'nothing'} ({format_size(found.file_bytes)}) to {self._wanted.target}"
