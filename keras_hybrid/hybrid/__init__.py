"""The method: stages of two networks, the paths through both, and how they train."""
