"""Which language-model architecture should I train on my own machine? See README.md."""

__version__ = "0.1.0"
