"""The method: the stages of two networks, the paths through both, and their training."""
