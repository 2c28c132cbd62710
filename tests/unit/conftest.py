"""Files are kept in memory."""

from lab.command_line import holdfast
from lab.memory import disk_path_factory, tmp_path, tmp_path_factory

__all__ = ["disk_path_factory", "holdfast", "tmp_path", "tmp_path_factory"]
