"""Images: folders and betons, loaders, and the views (augmentations) that training sees."""
