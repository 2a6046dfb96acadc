"""Video to bits and back (paper 4.1)."""

from modules.tokenizer.losses import TokenizerLoss
from modules.tokenizer.tokenizer import Quantized, Reconstruction, VideoTokenizer

__all__ = ["Quantized", "Reconstruction", "TokenizerLoss", "VideoTokenizer"]
