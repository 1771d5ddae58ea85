"""The settings of a run whose model comes from elsewhere, so that `init_from` can train it on other text."""

from dataclasses import fields, replace

from src.cli.compose import compose_config, register_schema
from src.config.schema import ArchitectureConfig, ModelSpec, PlanConfig, RecipeConfig, StageConfig, TrainConfig
from src.huggingface.tensor_file import state_shapes
from src.model.blocks import kind_of
from src.model.size_matching import match_config

IMPORTED = "imported"
"""The stage of weights that come from elsewhere, and the name of their architecture, size and recipe."""


def imported_config(spec: ModelSpec) -> TrainConfig:
    """Return the defaults of `src.train` with the architecture, size and recipe of a model, which no rule matches."""
    # Settings that no block reads have to be the defaults.
    read = {setting for kind in spec.blocks for setting in kind_of(kind).settings if hasattr(spec, setting)}
    register_schema(TrainConfig, "train")
    default = compose_config(TrainConfig, "train", [])
    config = replace(
        default,
        architecture=ArchitectureConfig(
            **{item.name: getattr(spec, item.name) for item in fields(ArchitectureConfig) if item.name in read}
            | {"name": IMPORTED, "pattern": [*spec.blocks], "n_blocks": len(spec.blocks)}
        ),
        size=replace(
            default.size,
            name=IMPORTED,
            d_model=spec.d_model,
            head_dim=spec.head_dim,
            n_heads=spec.query_heads,
            n_kv_heads=spec.kv_heads,
            n_layers=-(-len(spec.blocks) // 2),
            d_ff=None,
        ),
        recipe=RecipeConfig(
            IMPORTED, **{item.name: getattr(spec, item.name) for item in fields(RecipeConfig) if item.name != "name"}
        ),
        tokenizer=replace(default.tokenizer, vocab_size=spec.vocab_size),
        stage=PlanConfig(IMPORTED, {IMPORTED: StageConfig(corpus="language")}),
        match="none",
    )
    if spec.learned_positions:
        length = min(config.training.seq_len, spec.learned_positions)
        config.training.seq_len, config.size.seq_len = length, length
    built = match_config(config).spec
    assert state_shapes(built) == state_shapes(spec), "these settings build another model"
    return config
