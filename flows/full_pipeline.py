"""The whole pipeline as one Metaflow flow: raw shards in, a benchmarked, registered, promoted model out.

python flows/full_pipeline.py run                     # params.yaml, two cores, no network
python flows/full_pipeline.py run --profile smoke     # the same in miniature
python flows/full_pipeline.py run --set "select.keep=4000 pretrain.fit.steps=300"
python flows/full_pipeline.py resume [step]           # go on after a failure, or from a step
python flows/full_pipeline.py card view end           # the summary
"""

import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE if (HERE / "pipelines").is_dir() else HERE.parent  # the former in Metaflow's code package
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)  # paths in params.yaml, and Metaflow's own .metaflow, are relative to the repository

from flows.datastore import follow_store  # noqa: E402
from pipelines.services.surroundings import prepare  # noqa: E402

try:
    prepare()  # before Metaflow is imported, which looks around then
    follow_store(sys.argv[1:], ROOT)
except (ValueError, OSError) as error:
    print(f"full_pipeline: {error}", file=sys.stderr)
    sys.exit(2)

from metaflow import Config, FlowSpec, Parameter, card, package_sources, retry, step  # noqa: E402

from flows.cards import show_summary  # noqa: E402
from flows.ending import hooks_at_the_end  # noqa: E402
from flows.package import CODE, CODE_SUFFIXES  # noqa: E402
from flows.remote import remote_steps  # noqa: E402
from flows.support import (  # noqa: E402
    check_command_line,
    exit_codes,
    finish_run,
    read_file,
    read_settings,
    run_step,
    start_run,
)


@hooks_at_the_end
@package_sources(CODE, suffixes=CODE_SUFFIXES)
@remote_steps
class FullPipeline(FlowSpec):
    """From image-text shards to a promoted DDT-LLaMA."""

    conf = Config("conf", default=str(ROOT / "params.yaml"), parser=read_file, help="the parameter file")
    remote = Config(
        "remote", default_value="{}", parser=read_file, help="where the steps run (infra/kubernetes.yaml)"
    )
    profile = Parameter("profile", default="", help="overlay: smoke, h200, paper, or a YAML file")
    overrides = Parameter("set", default="", help="keys to override: 'section.key=value section.key=value'")

    @step
    def start(self):
        """Check the parameters and open the MLflow run."""
        self.started = time.time()
        self.settings = read_settings(self.conf, self.profile, self.overrides, self.remote)
        self.reports = {}
        self.mlflow_run = start_run(self.settings, self.profile)
        self.next(self.ingest)

    @card(type="blank")
    @retry(times=1, minutes_between_retries=0)
    @step
    def ingest(self):
        """Source shards to checked records."""
        run_step(self, "ingest")
        self.next(self.recaption, self.train_tokenizer)

    @card(type="blank")
    @retry(times=1, minutes_between_retries=0)
    @step
    def recaption(self):
        """A detailed caption for each image."""
        run_step(self, "recaption")
        self.next(self.score)

    @card(type="blank")
    @retry(times=1, minutes_between_retries=0)
    @step
    def score(self):
        """CLIP scores of native and generated captions."""
        run_step(self, "score")
        self.next(self.select)

    @card(type="blank")
    @retry(times=1, minutes_between_retries=0)
    @step
    def select(self):
        """Filters, duplicates, then exactly K pairs; the data gate."""
        run_step(self, "select")
        self.next(self.tokenize_images)

    @card(type="blank")
    @retry(times=1, minutes_between_retries=0)
    @step
    def train_tokenizer(self):
        """The DDT tokenizer."""
        run_step(self, "train_tokenizer")
        self.next(self.tokenize_images)

    @card(type="blank")
    @retry(times=1, minutes_between_retries=0)
    @step
    def tokenize_images(self, inputs):
        """Join: images to token shards; the token gate."""
        self.merge_artifacts(inputs, exclude=["reports"])
        self.reports = {name: report for branch in inputs for name, report in branch.reports.items()}
        run_step(self, "tokenize_images")
        self.next(self.pretrain)

    @card(type="blank")
    @retry(times=1, minutes_between_retries=0)
    @step
    def pretrain(self):
        """Multimodal next-token training."""
        run_step(self, "pretrain")
        self.next(self.finetune)

    @card(type="blank")
    @retry(times=1, minutes_between_retries=0)
    @step
    def finetune(self):
        """Instruction tuning."""
        run_step(self, "finetune")
        self.next(self.evaluate)

    @card(type="blank")
    @retry(times=1, minutes_between_retries=0)
    @step
    def evaluate(self):
        """The benchmarks."""
        run_step(self, "evaluate")
        self.next(self.promote)

    @card(type="blank")
    @step
    def promote(self):
        """Register the model; move the champion alias or say why not."""
        run_step(self, "promote")
        self.next(self.end)

    @card(type="blank")
    @step
    def end(self):
        """Close the run: DVC record, MLflow summary, the summary card."""
        self.summary = finish_run(self)
        show_summary(self.summary)


if __name__ == "__main__":
    sys.argv[1:] = check_command_line(sys.argv[1:])
    with exit_codes():
        FullPipeline()
