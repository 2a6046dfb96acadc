"""Compilation of the transformer's blocks."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer


class CompileBlocks(Callback):
    """Compiles every block of the transformer (``torch.compile``), for training and inference; weights keep their names.

    All blocks have the same structure and share one graph. Compiling them separately is compatible with activation checkpointing and
    FSDP.

    Args:
        backend: Backend of ``torch.compile``; "eager" traces the graphs without generating code.
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
