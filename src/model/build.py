"""Build a model with its weights from a `ModelSpec`."""

import torch

from src.config.schema import ModelSpec
from src.model.language_model import LanguageModel


def build_model(spec: ModelSpec, seed: int) -> LanguageModel:
    """Build a model on the CPU, so that the same seed gives the same weights on every device."""
    torch.manual_seed(seed)
    return LanguageModel(spec)
