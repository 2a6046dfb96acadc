"""Files of predictions: videos, reconstructions, latents and their manifests."""
