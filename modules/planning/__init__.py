"""Estimates of the memory, FLOPs and time of a training run, computed before it starts."""

from modules.planning.flops import Flops, flops_of
from modules.planning.memory import Builder, Memory, memory_of
from modules.planning.per_device import Devices, StepCost, step_cost
from modules.planning.tokenizer import TokenizerTraining, tokenizer_flops_of, tokenizer_memory_of

__all__ = [
    "Builder",
    "Devices",
    "Flops",
    "Memory",
    "StepCost",
    "TokenizerTraining",
    "flops_of",
    "memory_of",
    "step_cost",
    "tokenizer_flops_of",
    "tokenizer_memory_of",
]
