"""What is a model made of? Networks, losses, metrics, penalties, optimizers."""
