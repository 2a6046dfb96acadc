"""Clips of video and image files: manifests, class folders, UCF-101, buckets, cropping."""
