"""What a model is worth: measured on fixed text, never on the training stream."""
