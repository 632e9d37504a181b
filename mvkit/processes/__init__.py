"""Several processes as one: rank and size, gathering with gradients, batch norms over the global batch."""
