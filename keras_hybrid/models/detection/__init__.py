"""Faster R-CNN with a feature pyramid, one part per file."""
