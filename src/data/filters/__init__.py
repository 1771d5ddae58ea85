"""What is removed from documents or from a corpus before it is split: one filter a file.

Documents come from `data.sources`; `data.preparation` applies the filters in order and counts what each one drops.
"""
