"""From documents to token files: filters, splits, tokenizer, packing, manifest and data card.

Documents come from `data.sources`; `data.dataset` opens and checks the prepared folder for training.
"""
