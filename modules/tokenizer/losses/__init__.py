"""Losses of the tokenizer."""
