"""Training helpers: optimizer, seeding, precision, skipped steps, FSDP."""
