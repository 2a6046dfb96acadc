"""Moving digits: clips made on the fly, and a classifier for them."""
