"""Saved models by hub id, from a hub cache of the genuine layout; nothing here reaches the network."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from ddt.hub import local_folder
from ddt.tokenizer import DDTTokenizer
from tests.tokenizer.test_model import debug

REVISION = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import sys
from ddt.baselines.kinds import load_image_tokenizer
from ddt.tokenizer import DDTTokenizer
print(DDTTokenizer.from_pretrained(sys.argv[1]).digest, load_image_tokenizer(sys.argv[1]).digest)
"""


def in_a_process(home, *arguments):
    """As a user without a network would: huggingface_hub reads its settings when it is imported."""
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", LOAD, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_tokenizer_loads_by_its_hub_id(tmp_path):
    torch.manual_seed(0)
    tokenizer = DDTTokenizer(debug())
    repository = tmp_path / "hub" / "models--some-one--ddt.tokenizer"
    tokenizer.save_pretrained(repository / "snapshots" / REVISION)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    done = in_a_process(tmp_path, "some-one/ddt.tokenizer")
    assert done.stdout.split() == [tokenizer.digest] * 2, done.stderr
    shutil.rmtree(repository)
    done = in_a_process(tmp_path, "some-one/ddt.tokenizer")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: some-one/ddt.tokenizer: no such folder, and none from the hub (")


@pytest.mark.parametrize(
    "reference", ["here", "./one/two", "/one/two", "one/two/three", "../two", "one/.two"]
)
def test_what_is_no_hub_id_is_a_folder(reference, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)  # not to be called
    assert str(local_folder(reference)) == reference.removeprefix("./")


def test_a_folder_comes_before_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one" / "two").mkdir(parents=True)
    assert str(local_folder("one/two")) == "one/two"
