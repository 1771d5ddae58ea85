"""Where documents come from: local files, git repositories, the Hugging Face hub, and text that we generate.

`registry` chooses the source that a corpus names; `data.preparation` reads the documents.
"""
