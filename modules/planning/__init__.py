"""What a training needs, computed before it runs."""

from modules.planning.memory import Builder, Memory, memory_of
from modules.planning.needs import Machine, Needs, needs_of
from modules.planning.work import Work, work_of

__all__ = ["Builder", "Machine", "Memory", "Needs", "Work", "memory_of", "needs_of", "work_of"]
