"""Compilation of what a training spends its time in."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer


class CompileBlocks(Callback):
    """Compiles every block of the transformer (``torch.compile``), in training and wherever else it runs; weights keep their names.

    All blocks are alike, so one graph serves them all; compiled one by one they also go with activation checkpointing and sharding.

    Args:
        backend: Of ``torch.compile``; "eager" traces the graphs without making code of them.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ``ValueError`` for a model without a transformer."""
        blocks = getattr(getattr(pl_module, "transformer", None), "blocks", None)
        if blocks is None:
            raise ValueError(f"CompileBlocks needs a model with a transformer; {type(pl_module).__name__} has none")
        for block in blocks:
            block.compile(backend=self.backend)
