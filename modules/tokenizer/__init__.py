"""Video to bits and back (paper 4.1)."""

from modules.tokenizer.losses import TokenizerLoss
from modules.tokenizer.quantizer import Quantized
from modules.tokenizer.reconstruction import StreamedReconstruction
from modules.tokenizer.streaming import DecoderState, EncoderState
from modules.tokenizer.tokenizer import Reconstruction, VideoTokenizer

__all__ = ["DecoderState", "EncoderState", "Quantized", "Reconstruction", "StreamedReconstruction", "TokenizerLoss", "VideoTokenizer"]
