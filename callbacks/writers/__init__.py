"""Files of predictions: videos, reconstructions, latents and what lists them."""
