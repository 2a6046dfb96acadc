"""Convolutions with fewer multiplications (Toom-Cook)."""
