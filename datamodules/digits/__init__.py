"""Moving digits: procedural clips and a classifier for them."""
