"""From documents to token files: filters, splits, tokenizer, packing, manifest and data card.

Documents come from `data.sources`; the prepared folder goes to `data.dataset`, which opens and checks it for training.
"""
