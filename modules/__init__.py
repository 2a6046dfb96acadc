"""Models: tokenizer, transformer, autoregression, the two Lightning modules that train them, and the functions that load trained ones."""

from modules.lit_tokenizer import LitTokenizer
from modules.lit_videoar import LitVideoAR
from modules.loading import load, load_tokenizer
from modules.videoar import VideoAR

__all__ = ["LitTokenizer", "LitVideoAR", "VideoAR", "load", "load_tokenizer"]
