"""Video to bits and back (paper 4.1)."""

from modules.tokenizer.adversary import Adversary
from modules.tokenizer.detokenizer import Detokenizer
from modules.tokenizer.fast_conv import fast_convolutions
from modules.tokenizer.losses import TokenizerLoss
from modules.tokenizer.perceptual import PerceptualLoss
from modules.tokenizer.quantizer import Quantized
from modules.tokenizer.reconstruction import StreamedReconstruction
from modules.tokenizer.streaming import DecoderState, EncoderState
from modules.tokenizer.tokenizer import Reconstruction, VideoTokenizer

__all__ = [
    "Adversary",
    "DecoderState",
    "Detokenizer",
    "EncoderState",
    "PerceptualLoss",
    "Quantized",
    "Reconstruction",
    "StreamedReconstruction",
    "TokenizerLoss",
    "VideoTokenizer",
    "fast_convolutions",
]
