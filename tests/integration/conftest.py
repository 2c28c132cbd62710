"""Files are kept in memory; whoever asks for an agent gets a real one."""

from lab.memory import disk_path_factory, tmp_path, tmp_path_factory
from lab.one_agent import agent, client, pushes

__all__ = ["agent", "client", "disk_path_factory", "pushes", "tmp_path", "tmp_path_factory"]
