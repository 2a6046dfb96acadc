"""Clips as latents that were encoded before."""
