"""The registry: versions of models, the alias `champion`, and the history of that alias.

A version is an MLflow model of a few small files; its weights stay in the store. It belongs to the run of the
stage that made it.

Each change of the alias is a parameter of one MLflow run, numbered. MLflow keeps the first value of a
parameter and refuses another: of two who move the alias at once, one writes the number, the other is told.
"""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ddt.clean import one_line
from ddt.sections.run import Tracking
from pipelines.services import tracking as mlflow_runs
from pipelines.services.logged_model import Model, log_model
from pipelines.services.rows import NOT_THERE, VersionRow
from pipelines.services.without_mlflow import open_rows

CHAMPION, CANDIDATE = "champion", "candidate"
HISTORY_RUN = "champion_history"  # tag of a registered model: the run that has the alias's history
DONE = "moves_done"  # tag of that run: the last move that the alias has made
TOKENIZER = "tokenizer"  # tag of a version: name and version of its tokenizer, as JSON
MOVE = "champion.{:06d}"  # its parameters
BY_HAND, SEEN = "somebody", "by hand, outside of ddt"


@dataclass(frozen=True)
class Version:
    """A registered version. Its tags say what it is and where its weights are (`store`, `key`)."""

    name: str
    number: str
    run_id: str | None
    tags: dict[str, str]


@dataclass(frozen=True)
class Move:
    """One change of the alias: from version `before` to `version`; None where it was on none."""

    number: int
    version: str | None
    before: str | None
    who: str
    when: str
    why: str


@dataclass(frozen=True)
class Champion:
    """The alias as it was read: its version and all its moves, the last of them perhaps made by hand."""

    version: Version | None
    moves: tuple[Move, ...]

    def was(self, version: Version) -> bool:
        """Whether `version` is the champion or ever was."""
        return version.number in {move.version for move in self.moves}

    def previous(self) -> str | None:
        """The number of the last champion that is not this one."""
        now = self.version.number if self.version else None
        earlier = [move.version for move in self.moves if move.version not in (None, now)]
        return earlier[-1] if earlier else None


class MovedMeanwhile(ValueError):
    """Somebody else moved the alias since it was read."""


def register(tracking: Tracking, name: str, model: Model, tags: dict[str, str]) -> Version:
    """A version of `name` for the model, once for each digest; a new one gets the alias `candidate`."""
    client = mlflow_runs.client(tracking)
    if model.kind == "tokenizer":  # its alias follows the model's
        _create(client, name, {})
    else:
        _history_run(client, tracking, name)
    found = _registered(client, name, model)
    if found is not None:
        return found
    run_id = _run_of(client, tracking, model)
    model_id = log_model(client, run_id, name, model)
    tags = tags | {
        "stage": model.stage,
        "digest": model.manifest.digest,
        "fingerprint": model.manifest.fingerprint,
        "store": model.store,
        "key": model.key,
        mlflow_runs.MANIFEST_KEY: model.manifest.key,
    }
    made = client.create_model_version(name, f"models:/{model_id}", run_id, tags=tags, model_id=model_id)
    first = _registered(client, name, model)
    if first is not None and first.number != str(made.version):  # another was faster with the same model
        client.delete_model_version(name, str(made.version))
        return first
    client.set_registered_model_alias(name, CANDIDATE, str(made.version))
    return Version(name, str(made.version), run_id, tags)


def find_registered(tracking: Tracking, name: str, model: Model) -> Version | None:
    """The version that the model is registered as, or None."""
    return _registered(mlflow_runs.client(tracking), name, model)


def find_version(tracking: Tracking, name: str, which: str) -> Version | None:
    """The version behind an alias or a version number, or None. Aliases are missing from searches."""
    rows = open_rows(tracking)
    if rows:
        row = rows.version(name, which)
        return _of_row(row) if row else None
    client = mlflow_runs.client(tracking)
    if which.isdigit():
        found = _found(tracking, client.get_model_version, name, which)
    else:
        found = _found(tracking, client.get_model_version_by_alias, name, which)
    return None if found is None else _version(found)


def versions_of(tracking: Tracking, name: str, digest: str) -> list[Version]:
    """The versions of a model that have this content, the oldest first."""
    rows = open_rows(tracking)
    if rows:
        return [_of_row(row) for row in rows.versions(name, digest)]
    client = mlflow_runs.client(tracking)
    found = client.search_model_versions(f"name = '{name}' and tags.digest = '{digest}'")
    return sorted(map(_version, found), key=lambda version: int(version.number))


def aliases_of(tracking: Tracking, version: Version) -> list[str]:
    """The aliases that are on a version now."""
    rows = open_rows(tracking)
    if rows:
        return rows.aliases(version.name, version.number)
    return sorted(mlflow_runs.client(tracking).get_model_version(version.name, version.number).aliases)


def all_versions(tracking: Tracking) -> Iterator[Version]:
    """Every version of every model."""
    client, token = mlflow_runs.client(tracking), None
    while True:
        found = client.search_model_versions(page_token=token)
        yield from map(_version, found)
        token = found.token
        if not token:
            return


def tag_version(tracking: Tracking, version: Version, tags: dict[str, str]) -> None:
    """Write tags on a version, those that it does not have yet."""
    client = mlflow_runs.client(tracking)
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.number, key, value)


def keep_record(tracking: Tracking, version: Version, record: dict[str, Any], file: str) -> None:
    """`record` as a JSON file among the artifacts of the version's run."""
    if version.run_id:
        mlflow_runs.client(tracking).log_dict(version.run_id, record, file)


def read_champion(tracking: Tracking, name: str) -> Champion:
    """The alias now. A change that the history does not have was made by hand: it is the last move."""
    client = mlflow_runs.client(tracking)
    run = _run_with_history(client, tracking, name)
    moves = _moves(run)
    version = find_version(tracking, name, CHAMPION)
    number, last = version.number if version else None, moves[-1].version if moves else None
    if number != last and not _unfinished(run, moves):
        moves.append(Move(len(moves) + 1, number, last, BY_HAND, "", SEEN))
    return Champion(version, tuple(moves))


def move_champion(tracking: Tracking, champion: Champion, to: Version, why: str) -> Move:
    """Move the alias from where `champion` read it to `to`, and its tokenizer's with it.

    Raises MovedMeanwhile where somebody else has moved it since.
    """
    client = mlflow_runs.client(tracking)
    run_id = _history_run(client, tracking, to.name)
    before = champion.version.number if champion.version else None
    if champion.moves and champion.moves[-1].who == BY_HAND:
        _write(client, tracking, run_id, champion.moves[-1])
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    move = Move(len(champion.moves) + 1, to.number, before, who(), now, one_line(why))
    _write(client, tracking, run_id, move)
    _follow(client, tracking, run_id, to.name, move)
    return move


def finish_move(tracking: Tracking, name: str) -> None:
    """Make the last move of the history where the process that wrote it ended before the alias moved."""
    client = mlflow_runs.client(tracking)
    run = _run_with_history(client, tracking, name)
    moves = _moves(run)
    if _unfinished(run, moves):
        now = find_version(tracking, name, CHAMPION)
        if (now.number if now else None) == moves[-1].before:
            _follow(client, tracking, run.info.run_id, name, moves[-1])
        else:  # it was moved, if not by that process
            client.set_tag(run.info.run_id, DONE, str(moves[-1].number))


def who() -> str:
    """The user and the machine, as records name them."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _follow(client: Any, tracking: Tracking, run_id: str, name: str, move: Move) -> None:
    """The aliases as a move has them, then the mark that it is done."""
    version = find_version(tracking, name, move.version) if move.version else None
    if version is not None:  # nobody has deleted it meanwhile
        client.set_registered_model_alias(name, CHAMPION, version.number)
        tokenizer = json.loads(version.tags.get(TOKENIZER, "null"))
        if tokenizer is not None:
            client.set_registered_model_alias(tokenizer["name"], CHAMPION, tokenizer["version"])
    client.set_tag(run_id, DONE, str(move.number))


def _write(client: Any, tracking: Tracking, run_id: str, move: Move) -> None:
    """The first value of its parameter, or MovedMeanwhile."""
    MlflowException = mlflow_runs.api("exceptions").MlflowException
    key, value = MOVE.format(move.number), json.dumps(asdict(move), sort_keys=True)
    try:
        client.log_param(run_id, key, value)
    except MlflowException as error:
        standing = client.get_run(run_id).data.params.get(key)
        if standing in (None, value):
            raise mlflow_runs.unusable(tracking.uri, error) from error
        winner = Move(**json.loads(standing))
        raise MovedMeanwhile(
            f"version {winner.version} was made champion by {winner.who} at the same time; "
            "see `ddt history`, then run this again"
        ) from error


def _moves(run: Any) -> list[Move]:
    params = {} if run is None else run.data.params
    keys = sorted(key for key in params if key.startswith(MOVE.partition("{")[0]))
    return [Move(**json.loads(params[key])) for key in keys]


def _unfinished(run: Any, moves: list[Move]) -> bool:
    return bool(moves) and moves[-1].who != BY_HAND and run.data.tags.get(DONE) != str(moves[-1].number)


def _run_with_history(client: Any, tracking: Tracking, name: str) -> Any:
    model = _found(tracking, client.get_registered_model, name)
    return client.get_run(model.tags[HISTORY_RUN]) if model and HISTORY_RUN in model.tags else None


def _history_run(client: Any, tracking: Tracking, name: str) -> str:
    """The run with the alias's history, made together with the registered model."""
    model = _found(tracking, client.get_registered_model, name)
    if model is not None and HISTORY_RUN in model.tags:
        return str(model.tags[HISTORY_RUN])
    experiment = mlflow_runs.experiment_id(tracking, client)
    run_id = str(client.create_run(experiment, run_name=f"{name} {CHAMPION}").info.run_id)
    client.set_terminated(run_id)
    if model is not None:  # registered by other means
        client.set_registered_model_tag(name, HISTORY_RUN, run_id)
        return run_id
    if _create(client, name, {HISTORY_RUN: run_id}):
        return run_id
    client.delete_run(run_id)  # another was faster
    return _history_run(client, tracking, name)


def _create(client: Any, name: str, tags: dict[str, str]) -> bool:
    """Whether this call made the registered model; it may be there already."""
    MlflowException = mlflow_runs.api("exceptions").MlflowException
    try:
        client.create_registered_model(name, tags=tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return False
    return True


def _run_of(client: Any, tracking: Tracking, model: Model) -> str:
    """The run of the stage that made the model; a new one where this server has none."""
    experiment, digest = mlflow_runs.experiment_id(tracking, client), model.manifest.digest
    runs = client.search_runs(
        [experiment],
        f"tags.stage = '{model.stage}' and tags.manifest = '{digest}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    if runs:
        return str(runs[0].info.run_id)
    tags = {"stage": model.stage, "manifest": digest, "fingerprint": model.manifest.fingerprint}
    run_id = str(client.create_run(experiment, run_name=model.stage, tags=tags).info.run_id)
    client.set_terminated(run_id)
    return run_id


def _registered(client: Any, name: str, model: Model) -> Version | None:
    """The first version of this content in this place."""
    wanted = {"digest": model.manifest.digest, "store": model.store, "key": model.key}
    found = [_version(each) for each in client.search_model_versions(f"name = '{name}'")]
    same = [each for each in found if wanted.items() <= each.tags.items()]
    return min(same, key=lambda each: int(each.number), default=None)


def _version(found: Any) -> Version:
    return Version(found.name, str(found.version), found.run_id or None, dict(found.tags))


def _of_row(row: VersionRow) -> Version:
    return Version(row.name, str(row.number), row.run_id, row.tags)


def _found(tracking: Tracking, get: Any, *arguments: str) -> Any:
    """What the registry has, or None; ValueError naming `tracking.uri` for any other answer."""
    MlflowException = mlflow_runs.api("exceptions").MlflowException
    try:
        return get(*arguments)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise mlflow_runs.unusable(tracking.uri, error) from error
        return None
