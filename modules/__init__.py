"""What is computed: tokenizer, transformer, autoregression, and the two Lightning modules that train them."""

from modules.lit_tokenizer import LitTokenizer
from modules.lit_videoar import LitVideoAR

__all__ = ["LitTokenizer", "LitVideoAR"]
