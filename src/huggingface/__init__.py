"""Models as folders that Hugging Face's transformers loads, and such folders as models: exact, both ways.

`twins` chooses the class of transformers that computes what our model computes; a `twin` knows its settings and, by
`ties`, its tensors; `write` and `read` are about the files, `card` about the README. transformers itself is imported
by the file that goes along with some hybrids alone (`modeling_hybrid.py`, which nothing here imports): all else is JSON
and safetensors, so that nothing in a folder is ever executed.
"""

from src.huggingface.export_model import RECORD, write_folder
from src.huggingface.import_model import Imported, read_folder
from src.huggingface.mappings import twin_of

__all__ = ["RECORD", "Imported", "read_folder", "twin_of", "write_folder"]
