"""Networks whose features compare videos."""
