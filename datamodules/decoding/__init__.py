"""Decoding of video and image files to frames."""
