"""DDT-LLaMA: unified multimodal models on discrete diffusion timestep tokens."""

__version__ = "0.1.0"
