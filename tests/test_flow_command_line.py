"""What the flow's command line refuses before Metaflow starts anything: exit code 2 and one line."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddt.params import load_mapping
from pipelines.reports.report import Report

pytest.importorskip("metaflow")

from flows import support  # noqa: E402
from flows.support import StepFailed, check_command_line, read_file, read_settings  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--profile", "smok"], "profile 'smok' not found; there are:"),
        (["run", "--profile=smok"], "profile 'smok' not found; there are:"),
        (["run", "--set", "select.kep=1"], "select.kep: unknown key"),
        (["run", "--set=select.keep=1 select.kep=1"], "select.kep: unknown key"),
        (["run", "--profile=smoke", "--set=select.keep=many"], "select.keep = 'many': expected a whole"),
        (
            ["run", "--set=tracking.uri=http://ann:s3cret@127.0.0.1:9"],
            "tracking.uri = http://ann:***@127.0.0.1:9: Connection",
        ),
        (["run", "--set=tracking.experiment=''"], "tracking.experiment = '': expected 1 to 500 printable"),
        (["run", "--set=paths.workspace=/proc/none"], "paths.workspace = /proc/none: can't be written to"),
        (["run", "--set=paths.workspace={tmp} paths.store=/proc/none"], "paths.store: /proc/none: no folder"),
        (["run", "--set=score.model=./clip"], "score.model = ./clip: no such folder; expected one, a hub id"),
        (
            ["run", "--set", "select.keep=9", "--set=select.seed=1"],
            "--set is given twice; expected one, with",
        ),
        (["run", "--set=finetune.mix.chat=1"], "finetune.mix.chat = 1.0: there are no conversations; set"),
        (["run", "--set=pretrain.text_source=/no/texts"], "pretrain.text_source: /no/texts does not exist"),
        (["--config", "conf", "/no/params.yaml", "run"], "/no/params.yaml: cannot be read"),
    ],
)
def test_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        check_command_line([argument.replace("{tmp}", str(tmp_path)) for argument in arguments])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"full_pipeline: {message}")


def inside(folder: Path) -> list[str]:
    """Arguments of a run that keeps everything in `folder`."""
    keys = (
        f"paths.store={folder}/store",
        f"paths.workspace={folder}",
        f"tracking.uri=sqlite:///{folder}/a.db",
    )
    return ["run", "--set", " ".join(keys)]


def test_what_is_right_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (inside(tmp_path), ["resume"], ["show"]):
        check_command_line(arguments)
    # The run is not dvc.yaml's, and that is known before it.
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("full_pipeline: the run will not be recorded in DVC: paths.workspace = ")


def test_metaflow_is_given_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the command line, nor by the parameter file, nor in the settings that its steps share."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setattr(support.tracking, "require_place", lambda uri: None)
    uri, hidden = "postgresql://ann:s3cret@host/db", "postgresql://ann:***@host/db"
    arguments = inside(tmp_path)
    arguments[-1] = f"{arguments[-1]} tracking.uri={uri}"
    kept = check_command_line(arguments)
    assert kept[-1].endswith(f"tracking.uri={hidden}") and kept[:-1] == arguments[:-1]
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "s3cret"

    profile = tmp_path / "team.yaml"
    profile.write_text(f"tracking: {{uri: '{uri}'}}")
    file = read_file((ROOT / "params.yaml").read_text().replace("sqlite:///data/mlflow.db", uri))
    for settings in (file, read_settings(file, "", "", {}), read_settings(file, str(profile), "", {})):
        assert settings["tracking"]["uri"] == hidden


def test_a_cluster_that_is_gone_is_told_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(SystemExit) as ended:
        check_command_line(inside(tmp_path))
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("full_pipeline: RAY_ADDRESS = 127.0.0.1:9: no cluster there (Connection refused)")


def test_metaflow_has_a_folder_for_its_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAFLOW_DATASTORE_SYSROOT_LOCAL", "/proc/none")
    with pytest.raises(SystemExit) as ended:
        check_command_line(inside(tmp_path))
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "full_pipeline: Metaflow keeps its runs in /proc/none, which can't be written to ("
    )


def test_what_a_stage_says_in_words_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Report("pretrain", notes=["Held-out pictures: 0.4 nats a code"])
    monkeypatch.setenv("DDT_RAY_OWNER", "")  # so that what the step sets is undone
    handed: list[dict[str, str]] = []
    monkeypatch.setattr(support, "_run_with_card", lambda *given: handed.append(given[-1]) or said)
    monkeypatch.setattr(support, "show_report", lambda *_: None)
    settings = load_mapping(ROOT / "params.yaml")
    settings["paths"]["workspace"] = str(tmp_path)
    made = {stage: {"manifest": f"manifests/{stage}"} for stage in ("train_tokenizer", "tokenize_images")}
    flow = SimpleNamespace(settings=settings, mlflow_run="", reports=made)
    support.run_step(flow, "pretrain")
    assert capsys.readouterr().out == "Held-out pictures: 0.4 nats a code\n"
    assert flow.reports["pretrain"]["notes"] == said.notes
    assert handed == [{stage: f"manifests/{stage}" for stage in made}]


def test_a_mistake_found_in_the_first_step_is_one_line() -> None:
    with pytest.raises(StepFailed, match="profile 'smok' not found"):
        read_settings({}, "smok", "", {})
