"""DeepLab v2, and the dilation of its backbone."""
