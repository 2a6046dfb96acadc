"""Checkpoints: the last one, written whole, and the signal that asks for one."""
