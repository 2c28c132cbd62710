"""The examination behind `holdfast doctor`: what is set up, what is wrong with it, and what to do."""

from .examination import examine
from .findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]
