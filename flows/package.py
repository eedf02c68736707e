"""What Metaflow's code package holds beside the flow's own file: all that a step reads of the repository."""

from __future__ import annotations

CODE = [f"../{name}" for name in ("ddt", "pipelines", "flows", "params.yaml", "profiles")]
# The last three are the scenes' judges, whole: their digests are part of what identifies a stage's result.
CODE_SUFFIXES = (".py", ".yaml", ".json", ".safetensors", ".md")
