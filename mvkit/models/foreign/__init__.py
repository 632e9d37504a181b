"""Models from elsewhere: torchvision, timm, a user's own code, TorchScript and exported programs."""
