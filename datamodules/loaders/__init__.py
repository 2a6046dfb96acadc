"""Loaders: order of clips, exact resume, mixing of sources."""
