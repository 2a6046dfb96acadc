"""Clips as latents that were encoded earlier, from a folder or a stream."""
