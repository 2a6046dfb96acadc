"""Estimates of the memory, FLOPs and time of a training run, computed before it starts."""

from modules.planning.flops import Work, work_of
from modules.planning.memory import Builder, Memory, memory_of
from modules.planning.per_device import Machine, Needs, needs_of
from modules.planning.tokenizer import TokenizerTraining, tokenizer_memory_of, tokenizer_work_of

__all__ = [
    "Builder",
    "Machine",
    "Memory",
    "Needs",
    "TokenizerTraining",
    "Work",
    "memory_of",
    "needs_of",
    "tokenizer_memory_of",
    "tokenizer_work_of",
    "work_of",
]
