"""Tokenizers: byte-level BPE trained on the data, and external tokenizers.

Text comes from `data.preparation`, which writes the token files; `inference` decodes tokens.
"""
