"""One patient in, whatever sequences there are; a segmentation, its numbers and its doubts out."""
