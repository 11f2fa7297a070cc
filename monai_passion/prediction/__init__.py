"""From the available sequences of a patient to a segmentation, its numbers and its warnings."""
