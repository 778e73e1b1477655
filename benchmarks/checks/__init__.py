"""Whole runs that are too long for a test: kills, overfitting, detections on phones."""
