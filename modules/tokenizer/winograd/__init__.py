"""Winograd convolutions (Toom-Cook algorithm)."""
