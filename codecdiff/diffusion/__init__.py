"""The diffusion process of one stage: noise schedules, the training loss, samplers and guidance."""
