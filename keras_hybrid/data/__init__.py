"""What the recipes train on: files on disk, or drawn street scenes."""
