"""Stage `train_tokenizer`: the DDT tokenizer (paper section 3), on Ray Train."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ddt.params import TrainTokenizerParams
from pipelines.fit import train
from pipelines.models import model_folder, publish_model, training_stage
from pipelines.pictures import curve_plot
from pipelines.report import Report
from pipelines.runner import StageContext, StageResult

MODULES = ("ddt.tokenizer", "ddt.train", "ddt.data.images", "pipelines.train_tokenizer")
PICTURED = 8
