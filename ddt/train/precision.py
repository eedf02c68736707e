"""bfloat16 where the machine has it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is native on `device`; emulated, it would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device, bf16: bool = True) -> AbstractContextManager[Any]:
    """Mixed precision in bfloat16 on `device` if asked for and native there; nothing otherwise."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 and has_bf16(device) else nullcontext()
