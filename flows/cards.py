"""Metaflow cards: a stage's report, and the summary of the run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaflow import current
from metaflow.cards import Image, Markdown, Table

from ddt.clean import one_line
from pipelines.engine.graph import STAGES
from pipelines.reports.cost import cost_row
from pipelines.reports.report import Report
from pipelines.services.passwords import shown

REFRESH_S = 120.0
SHORTEST_S = 5.0  # between two renewals: Metaflow heeds none before
MOST_METRICS = 8


def show_report(report: Report, workspace: Path) -> None:
    """Fill the step's card with the stage's numbers, tables and pictures."""
    state = "nothing was missing" if report.skipped else f"{report.seconds:.1f} s"
    current.card.append(Markdown(f"# {report.stage}\n{state}, version `{report.digest[:16]}`"))
    for note in report.notes:
        current.card.append(Markdown(note))
    if report.metrics:
        rows = [[name, number(value)] for name, value in sorted(report.metrics.items())]
        current.card.append(Table(rows, headers=["metric", "value"]))
    if report.rejects:
        rejects = [[reason, str(count)] for reason, count in sorted(report.rejects.items())]
        current.card.append(Table(rejects, headers=["rejected because", "samples"]))
    for title, rows in report.tables.items():
        current.card.append(Markdown(f"## {title}"))
        current.card.append(Table(rows[1:], headers=rows[0]))
    _pictures(report, workspace)
    for title, path in report.pages.items():
        current.card.append(Markdown(f"[{title}]({(workspace / path).resolve().as_uri()})"))


class LiveCard:
    """The card of a step while it trains: how far it is, renewed every REFRESH_S seconds.

    Each renewal is a process of Metaflow's that takes some seconds of a core.
    """

    def __init__(self, stage: str, steps: int) -> None:
        self.stage, self.steps = stage, steps
        self.shown, self.told = time.monotonic(), Markdown(f"# {stage}\nhas begun")
        current.card.append(self.told)

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take a step's metrics; most are not shown."""
        now = time.monotonic()
        if now - self.shown < REFRESH_S:
            return
        self.shown = now
        values = ", ".join(
            f"{name} {number(value)}" for name, value in sorted(metrics.items())[:MOST_METRICS]
        )
        self.told.update(f"# {self.stage}\nstep {step:,} of {self.steps:,}: {values}")
        current.card.refresh()


def show_failure(stage: str, error: BaseException) -> None:
    """Tell on the step's card why there is no report; Metaflow would leave a failed step without a card.

    Returns when the card is written: what Metaflow writes it from goes away with the step.
    """
    current.card.clear()
    current.card.append(Markdown(f"# {stage} failed\n{one_line(shown(str(error)))}"))
    page = getattr(error, "page", None)  # a gate's
    if page is not None:
        current.card.append(Markdown(f"[Data Docs of the gate]({Path(page).resolve().as_uri()})"))
    current.card.refresh(force=True)
    time.sleep(SHORTEST_S)
    current.card.refresh(force=True)  # this one waits for the first


def show_summary(summary: dict[str, Any]) -> None:
    """Fill the last card: what went in, what came out, the verdict, time, and where everything is."""
    reports = {name: Report(**report) for name, report in summary["reports"].items()}
    workspace = Path(summary["workspace"])
    card = current.card
    card.append(Markdown(f"# {summary['run']}"))
    for note in reports["promote"].notes:
        card.append(Markdown(note))
    card.append(Markdown("## What went in and what came out"))
    card.append(Table([[name, number(value)] for name, value in headline(reports)], headers=["", ""]))
    for title, rows in (reports["evaluate"].tables | reports["promote"].tables).items():
        card.append(Markdown(f"## {title}"))
        card.append(Table(rows[1:], headers=rows[0]))
    _pictures(reports["evaluate"], workspace)
    card.append(Markdown("## Time"))
    times = [
        [name, f"{r.work_seconds:.1f}", f"{r.seconds:.1f}", *cost_row(r.metrics, summary["currency"])]
        for name, r in ((name, reports[name]) for name in STAGES)
    ]
    times.append(["all", "", f"{summary['seconds']:.1f}", *cost_row(summary["cost"], summary["currency"])])
    header = ["stage", "own work, s", "with services, s", "core hours", "accelerator hours", "cost"]
    card.append(Table(times, headers=header))
    card.append(
        Markdown(
            f"{summary['seconds']:.0f} s in all, {summary['overhead_seconds']:.0f} s of it outside the "
            "stages' own work. What was done before this run is told with the time that it took then."
        )
    )
    card.append(Markdown("## Where things are"))
    places = [
        ["store", summary["store"]],
        ["manifests and reports", summary["workspace"]],
        ["MLflow", f"{summary['tracking']}, run {summary['mlflow_run']}"],
        ["DVC", summary["dvc"]],
    ]
    pages = [
        [title, (workspace / path).resolve().as_uri()]
        for report in reports.values()
        for title, path in report.pages.items()
    ]
    card.append(Table(places + pages))


def headline(reports: dict[str, Report]) -> list[tuple[str, float]]:
    """The run in a dozen numbers; those a run does not have are left out."""
    wanted = (
        ("records read", "ingest", "ingest/pairs"),
        ("rejected", "ingest", "ingest/rejected"),
        ("pairs kept", "select", "select/kept"),
        ("wrong captions dropped, share", "select", "select/wrong_caption_dropped"),
        ("clean pairs lost to filters, share", "select", "select/clean_lost_to_filters"),
        ("codebook in use, share", "tokenize_images", "tokenize/codes_used"),
        ("held-out pictures, nats a code", "pretrain", "held_out/visual_ce"),
        ("the same with other captions", "pretrain", "held_out/visual_ce_shuffled"),
        ("the same by frequency alone", "pretrain", "held_out/unigram_entropy"),
        ("reconstruction, dB PSNR", "evaluate", "reconstruct/psnr"),
        ("GenEval on scenes", "evaluate", "geneval/overall"),
    )
    return [(text, reports[s].metrics[m]) for text, s, m in wanted if m in reports[s].metrics]


def number(value: float) -> str:
    """Whole numbers as such, others with four digits."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def _pictures(report: Report, workspace: Path) -> None:
    for title, path in report.pictures.items():
        if (workspace / path).is_file():
            current.card.append(Markdown(f"## {title}"))
            current.card.append(Image((workspace / path).read_bytes()))
