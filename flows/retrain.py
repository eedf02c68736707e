"""The pipeline again for new data: the champion goes on with it, and is followed by the same rule.

python flows/retrain.py run                   # what is new since the last run; ends at once where nothing is
python flows/retrain.py --config remote infra/kubernetes.yaml argo-workflows create

New source shards alone are read, captioned and scored; the selection is over all. The champion's tokenizer is
kept, since its codes are what the language model knows.
"""

import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE if (HERE / "pipelines").is_dir() else HERE.parent))

from flows.full_pipeline import FullPipeline  # noqa: E402  # isort: skip  # prepares what Metaflow looks at

from metaflow import card, retry, schedule, step, trigger  # noqa: E402

from flows.support import (  # noqa: E402
    check_command_line,
    continue_champion,
    exit_codes,
    keep_champions_tokenizer,
    news,
    read_settings,
    start_run,
)


@schedule(daily=True)
@trigger(event="ddt-llama-shards")
class Retrain(FullPipeline):
    """New shards to a model that goes on from the champion."""

    @step
    def start(self):
        """Look for what is new; where there is something, begin a run from the champion."""
        self.started = time.time()
        self.settings = read_settings(self.conf, self.profile, self.overrides, self.remote)
        self.reports = {}
        self.news = news(self.settings)
        if self.news:
            self.settings, self.tokenizer = continue_champion(self.settings)
            self.mlflow_run = start_run(self.settings, self.profile)
        self.todo = "train" if self.news else "nothing"
        self.next({"train": self.ingest, "nothing": self.end}, condition="todo")

    @card(type="blank")
    @retry(times=1, minutes_between_retries=0)
    @step
    def train_tokenizer(self):
        """The champion's tokenizer, kept."""
        keep_champions_tokenizer(self)
        self.next(self.tokenize_images)

    @card(type="blank")
    @step
    def end(self):
        """Close the run, if there was one."""
        if self.news:
            super().end()


if __name__ == "__main__":
    sys.argv[1:] = check_command_line(sys.argv[1:], "retrain")
    with exit_codes("retrain"):
        Retrain()
