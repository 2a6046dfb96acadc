"""Where a run of decoding keeps its tensors: at addresses that stay, so that a step can be recorded once and replayed.

A step reads its inputs, the model's weights and the workspace, and writes to the workspace. All that differs between two steps of one kind
at one length of the cache are values in these tensors. There are few such pairs, even in a run without an end, as the cache is of fixed
size: one per scale for every number of past frames, and one more for the very first block.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from modules.transformer.attention.attention import BlockContext, Dense
from modules.transformer.attention.kv_cache import KVCache
from modules.transformer.block import Modulation

# Inputs of one shape to outputs of one shape.
Step = Callable[[Tensor], Tensor]

# Makes of a step, and inputs like those to come, something that does the same for less; see modules.transformer.decoding.cuda_graphs.
Recorder = Callable[[Step, Tensor], Step]

# Workspaces with recorded steps that are kept for later runs, for batches and lengths in turn.
MAX_KEPT = 4


class Steps:
    """Computes every step anew."""

    def __call__(self, kind: Hashable, step: Step, inputs: Tensor) -> Tensor:
        """Do a step; steps of one kind do the same things to the same tensors."""
        return step(inputs)


class RecordedSteps(Steps):
    """Records the first step of every kind, and replays it for the others."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._recordings: dict[Hashable, Step] = {}

    def __len__(self) -> int:
        return len(self._recordings)

    def __call__(self, kind: Hashable, step: Step, inputs: Tensor) -> Tensor:
        if kind not in self._recordings:
            self._recordings[kind] = self._record(step, inputs)
        return self._recordings[kind](inputs)


class Workspace:
    """The tensors of one run at a time.

    Args:
        cache: Keys and values of the condition, the past and one frame.
        prompt: Keys and values of a condition by itself.
        cosines: ``(n, head_dim / 2)`` rotary factors of the condition and of one frame.
        modulation: What the condition does to the norms, None if nothing.
        steps: How steps are done.
    """

    def __init__(self, cache: KVCache, prompt: KVCache, cosines: Tensor, modulation: Modulation | None, steps: Steps) -> None:
        self.cache, self.prompt, self.modulation, self.steps = cache, prompt, modulation, steps
        self.cosines, self.sines = cosines, torch.empty_like(cosines)
        self._user: Callable[[], object | None] = lambda: None

    @property
    def is_free(self) -> bool:
        """Whether the run that uses it is gone."""
        return self._user() is None

    def use(self, run: object) -> None:
        """Begin anew for a run, whose end frees the workspace."""
        self.cache.truncate(0)
        self._user = weakref.ref(run)

    def turn(self, first: int, factors: tuple[Tensor, Tensor]) -> None:
        """Set rotary factors from the row ``first`` on."""
        for held, new in zip((self.cosines, self.sines), factors, strict=True):
            held[first : first + len(new)] = new

    def modulate(self, modulation: Modulation | None) -> None:
        """Set what the condition does to the norms."""
        for held, new in zip(self.modulation or (), modulation or (), strict=True):
            held.copy_(new)

    def around(self, tokens: slice, cache: KVCache) -> BlockContext:
        """What surrounds tokens that see all of a cache and join it; their rows among the rotary factors."""
        modulation = self.modulation and self.modulation.blocks
        return BlockContext(self.cosines[tokens], self.sines[tokens], Dense(None), modulation, cache)


class Workspaces:
    """Lends every run a workspace: a new one, or with recorded steps one that an earlier run of the same shape has left.

    Recordings hold the addresses of the weights, so they must be dropped where weights move. A copy keeps nothing.
    """

    def __init__(self) -> None:
        self._kept: dict[Workspace, Hashable] = {}

    def lend(self, shape: Hashable, record: Recorder | None, make: Callable[[Steps], Workspace]) -> Workspace:
        """A workspace that nobody uses.

        Args:
            shape: What runs must have in common to use the same workspace.
            record: How steps are recorded, None if they are not.
            make: A new workspace with these steps.
        """
        # Of a later run outside of inference mode, too, which may not write to tensors that were made in it.
        with torch.inference_mode(False), torch.no_grad():
            if record is None:
                return make(Steps())
            free = (space for space, its_shape in self._kept.items() if its_shape == shape and space.is_free)
            space = next(free, None) or make(RecordedSteps(record))
        self._kept = {**{kept: its_shape for kept, its_shape in self._kept.items() if kept is not space}, space: shape}
        for oldest in list(self._kept)[:-MAX_KEPT]:
            del self._kept[oldest]
        return space

    def drop(self) -> None:
        """Forget all that was recorded."""
        self._kept = {}

    def __reduce__(self) -> tuple[type[Workspaces], tuple[()]]:
        return Workspaces, ()
