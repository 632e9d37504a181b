"""Models from elsewhere: torchvision, timm, and a user's own code."""
