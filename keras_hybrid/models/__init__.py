"""Models for segmentation and detection, and a ResNet-50 with PyTorch's weights."""
