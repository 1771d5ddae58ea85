"""Exact conversion between our models and folders that Hugging Face's transformers loads.

`mappings` selects the transformers class that computes the same as our model; a `Mapping` holds its settings and, with
`weight_mapping`, its tensors; `export_model` and `import_model` write and read the files, `model_card` the README. Only
`modeling_hybrid.py`, which is copied into some exported folders and imported by nothing here, imports transformers. All
other files are JSON and safetensors, so nothing in a folder is ever executed.
"""

from src.huggingface.export_model import RECORD, write_folder
from src.huggingface.import_model import Imported, read_folder
from src.huggingface.mappings import is_exportable, mapping_of

__all__ = ["RECORD", "Imported", "is_exportable", "mapping_of", "read_folder", "write_folder"]
