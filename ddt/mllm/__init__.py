"""DDT-LLaMA (paper section 4): one decoder-only model over text tokens and diffusion timestep tokens."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddt.mllm.model import DDTLlama

__all__ = ["DDTLlama"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: reading params.yaml needs the settings here, not Transformers.
    if name == "DDTLlama":
        from ddt.mllm.model import DDTLlama

        return DDTLlama
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
