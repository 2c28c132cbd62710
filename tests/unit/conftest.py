"""Nothing here is about disks, so files are kept in memory."""

from lab.memory import tmp_path, tmp_path_factory

__all__ = ["tmp_path", "tmp_path_factory"]
