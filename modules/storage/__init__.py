"""Files: tensors, checksums, exports, shards, caches."""
