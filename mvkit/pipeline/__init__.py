"""What joins the stages: from names and recipes to models, features, scores and training runs."""
