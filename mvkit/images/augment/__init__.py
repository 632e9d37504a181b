"""Changes of colour, sharpness and side: drawn per sample, applied to batches.

``program`` draws what happens to each image; ``kernels`` does it on the CPU, ``batched`` on any torch device.
"""
