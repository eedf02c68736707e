"""DDT-LLaMA: one decoder-only model over text tokens and diffusion timestep tokens."""
