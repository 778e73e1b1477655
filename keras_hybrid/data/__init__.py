"""Training and test data: data sets on disk, and synthetic street scenes."""
