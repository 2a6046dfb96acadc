"""Video tokenizer (paper 4.1)."""

from modules.tokenizer.detokenizer import Detokenizer
from modules.tokenizer.losses.adversarial import AdversarialLoss
from modules.tokenizer.losses.perceptual import PerceptualLoss
from modules.tokenizer.losses.reconstruction import TokenizerLoss
from modules.tokenizer.quantizer import Quantized
from modules.tokenizer.reconstruction import StreamedReconstruction
from modules.tokenizer.streaming import DecoderState, EncoderState
from modules.tokenizer.tokenizer import Reconstruction, VideoTokenizer
from modules.tokenizer.winograd.conv import winograd_convolutions

__all__ = [
    "AdversarialLoss",
    "DecoderState",
    "Detokenizer",
    "EncoderState",
    "PerceptualLoss",
    "Quantized",
    "Reconstruction",
    "StreamedReconstruction",
    "TokenizerLoss",
    "VideoTokenizer",
    "winograd_convolutions",
]
