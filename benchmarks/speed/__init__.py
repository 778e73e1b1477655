"""How fast training steps, input pipelines and exported files are."""
