"""Tokenizers: byte-level BPE trained on the data, and tokenizers that a user brings.

Text comes from `data.preparation`; tokens go to its token files, and `inference` decodes them.
"""
