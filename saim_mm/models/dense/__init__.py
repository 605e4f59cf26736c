"""What only detection and segmentation need of the encoder."""
