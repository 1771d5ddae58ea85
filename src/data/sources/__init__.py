"""Sources of documents: local files, git repositories, the Hugging Face hub, and generated text.

`registry` selects the source of a corpus; `data.preparation` reads the documents.
"""
