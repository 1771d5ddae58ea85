"""Every setting of the program: type, default, range, choices and meaning, one file for each section.

`conf/*.yaml` has the values. Hydra composes the YAML, `src.cli.compose` turns the result into these plain dataclasses,
and nothing below the commands sees a `DictConfig`. A new setting is a field here and a line in its YAML.
"""

from src.config.errors import UserError
from src.config.paths import CONF, EXPERIMENTS, ROOT, experiment_files
from src.config.schema.architecture import ArchitectureConfig
from src.config.schema.commands import (
    AdviseConfig,
    ChatConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    MachineConfig,
    PrepareConfig,
    ReportConfig,
    RunsConfig,
    ServeConfig,
)
from src.config.schema.data import FROM_PATHS, TASK, CorpusConfig, DataConfig, HygieneConfig, TokenizerConfig
from src.config.schema.evaluation import EvaluationConfig, SamplingConfig, VerdictConfig
from src.config.schema.model_spec import ModelSpec
from src.config.schema.optimizer import OptimizerConfig, ScheduleConfig
from src.config.schema.published import CheckConfig, ExpectedConfig, ValidateConfig
from src.config.schema.recipe import RecipeConfig
from src.config.schema.runtime import LauncherConfig, RuntimeConfig, SweepConfig, TrackingConfig
from src.config.schema.size import SizeConfig
from src.config.schema.stage import PlanConfig, StageConfig
from src.config.schema.task import TaskConfig
from src.config.schema.train import BenchmarkConfig, DemoConfig, EstimateConfig, TrainConfig, TuneConfig, TuneSettings
from src.config.schema.training import BF16_WEIGHTS, INT8_MOMENTS, TrainingConfig
from src.config.setting import MISSING

__all__ = [
    "BF16_WEIGHTS", "CONF", "EXPERIMENTS", "FROM_PATHS", "INT8_MOMENTS", "MISSING", "ROOT", "TASK",
    "AdviseConfig", "ArchitectureConfig", "BenchmarkConfig", "ChatConfig", "CheckConfig", "CorpusConfig", "DataConfig",
    "DemoConfig",
    "DoctorConfig", "EstimateConfig", "EvaluateConfig", "EvaluationConfig", "ExpectedConfig", "ExportConfig",
    "GenerateConfig", "HygieneConfig", "LauncherConfig", "MachineConfig", "ModelSpec", "OptimizerConfig", "PlanConfig",
    "PrepareConfig", "RecipeConfig", "ReportConfig", "RunsConfig", "RuntimeConfig", "SamplingConfig", "ScheduleConfig",
    "ServeConfig", "SizeConfig", "StageConfig", "SweepConfig", "TaskConfig", "TokenizerConfig", "TrackingConfig",
    "TrainConfig", "TrainingConfig", "TuneConfig", "TuneSettings", "UserError", "ValidateConfig", "VerdictConfig",
    "experiment_files",
]  # fmt: skip
