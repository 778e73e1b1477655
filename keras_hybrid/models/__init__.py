"""Networks for other tasks than classification, of Keras's own layers."""
