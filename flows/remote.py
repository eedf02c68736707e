"""Where a flow's steps run: on this machine, or by `--config remote infra/kubernetes.yaml` in containers.

The file says the service's names and limits (`Remote`), and overlays the `SECTIONS` of the parameters.
From these each step's container is sized: with `ray_address` Ray's own pods do the work and every step is a
driver; without it the container holds all that its stage asks for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from metaflow import FlowMutator
from metaflow.user_decorators.mutable_flow import MutableFlow

from ddt.config import ConfigError, Count, Natural, Positive, Range, build, merge
from ddt.sections.run import TRAININGS, Notify, Paths, Resources, Tracking
from pipelines.engine.graph import STAGES

DRIVERS = ("promote",)  # stages that compute nothing; as are the steps that are no stages
SECTIONS = ("paths", "resources", "tracking", "notify")
MB_PER_GIB = 1024


@dataclass(frozen=True)
class Remote:
    """The containers of a flow's steps, as pods of Kubernetes or jobs of AWS Batch.

    `account` is a service account or an IAM role. `secrets` are names of Kubernetes' or of the Secrets
    Manager's, whose keys become environment variables. `volumes` are persistent volume claims or EFS file
    systems, with the folder that each is mounted at. `hours` is a stage's limit, `other` that of the others.
    """

    service: Literal["kubernetes", "batch"]
    image: str
    account: str
    secrets: tuple[str, ...]
    volumes: dict[str, str]
    environment: dict[str, str]
    ray_address: str | None
    driver_cpus: Count
    gib_per_cpu: Positive
    disk_gib: Count
    shared_memory_gib: Count
    hours: dict[str, Annotated[float, Range(0.1)]]
    retries: Natural
    minutes_between_retries: Natural
    paths: Paths
    resources: Resources
    tracking: Tracking
    notify: Notify

    def __post_init__(self) -> None:
        for step in self.hours:
            if step not in (*STAGES, "other"):
                raise ConfigError(f"hours.{step}: expected a stage or other")
        if "other" not in self.hours:
            raise ConfigError("hours.other: missing; it is the limit of the steps not named")
        if self.ray_address is None:
            self._check_room()

    def _check_room(self) -> None:
        """ConfigError where a stage asks for more cores than its container has."""
        cpus = self.resources.cpus
        if cpus is None:
            raise ConfigError("resources.cpus = null: expected the cores of a container")
        for stage in TRAININGS:
            resources = self.resources.of_stage(stage)
            wanted = resources.train_workers * (resources.train_cpus_per_worker or 1)
            if wanted > cpus:
                raise ConfigError(
                    f"resources.cpus = {cpus}: expected at least the {wanted} cores of {stage}'s workers"
                )


@dataclass(frozen=True)
class Size:
    """What one step asks for."""

    cpus: int
    gpus: int


def parse_remote(values: Mapping[str, Any], conf: Mapping[str, Any]) -> Remote:
    """The checked remote file over params.yaml; ConfigError naming the key."""
    sections = {name: conf[name] for name in SECTIONS}
    return build(Remote, merge(sections, values), "remote")


def overlays(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a remote file lays over the parameters of a run."""
    return {name: values[name] for name in SECTIONS if name in values}


def size_of(step: str, remote: Remote) -> Size:
    """The size of a step's container: all `resources.cpus`, and the accelerators that they keep at work."""
    if remote.ray_address is not None or step not in STAGES or step in DRIVERS:
        return Size(remote.driver_cpus, 0)
    resources = remote.resources.of_stage(step)
    cpus = int(resources.cpus or 0)  # Remote checks
    if step in TRAININGS:
        return Size(cpus, math.ceil(resources.train_workers * resources.gpus_per_worker))
    return Size(cpus, math.ceil(resources.actors_on(cpus) * resources.gpus_per_actor))


class remote_steps(FlowMutator):
    """Attaches @kubernetes or @batch and their like to every step where `remote` is given, else nothing."""

    def pre_mutate(self, mutable_flow: MutableFlow) -> None:
        configs = dict(mutable_flow.configs)
        if not configs["remote"]:
            return
        remote = parse_remote(plain(configs["remote"]), plain(configs["conf"]))
        for name, step in mutable_flow.steps:
            for decorator, arguments in decorators(name, step.has_decorator("retry"), remote).items():
                step.add_decorator(decorator, deco_kwargs=arguments, duplicates=step.OVERRIDE)


def decorators(step: str, may_retry: bool, remote: Remote) -> dict[str, dict[str, Any]]:
    """What is attached to a step: name of the decorator and its arguments.

    Only a step that may be done twice here is tried again there.
    """
    environment = dict(remote.environment)
    if remote.ray_address is not None:
        environment["RAY_ADDRESS"] = remote.ray_address
    attached = {
        remote.service: container(size_of(step, remote), remote),
        "timeout": {"seconds": round(remote.hours.get(step, remote.hours["other"]) * 3600)},
        "environment": {"vars": environment},
    }
    if may_retry:
        pause = remote.minutes_between_retries
        attached["retry"] = {"times": remote.retries, "minutes_between_retries": pause}
    if remote.service == "batch" and remote.secrets:
        attached["secrets"] = {"sources": list(remote.secrets)}
    return attached


def container(size: Size, remote: Remote) -> dict[str, Any]:
    """Arguments of @kubernetes or @batch. GPUs are left out where there are none: 0 would be a demand too."""
    arguments = {
        "image": remote.image,
        "cpu": size.cpus,
        "memory": math.ceil(size.cpus * remote.gib_per_cpu * MB_PER_GIB),
        "shared_memory": remote.shared_memory_gib * MB_PER_GIB,
    }
    if size.gpus:
        arguments["gpu"] = size.gpus
    if remote.service == "batch":
        return arguments | {"iam_role": remote.account, "efs_volumes": dict(remote.volumes)}
    return arguments | {
        "disk": remote.disk_gib * MB_PER_GIB,
        "service_account": remote.account,
        "secrets": list(remote.secrets),
        "persistent_volume_claims": dict(remote.volumes),
        "security_context": {
            "run_as_user": 1000,
            "run_as_non_root": True,
            "allow_privilege_escalation": False,
        },
    }


def plain(value: Any) -> Any:
    """Metaflow's ConfigValue as plain dicts and lists."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
