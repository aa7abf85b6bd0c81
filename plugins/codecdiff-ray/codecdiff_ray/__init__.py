"""Encoding, and generation for evaluation, on a Ray cluster for codecdiff."""

from codecdiff_ray.engine import ray_engine
from codecdiff_ray.generation import ray_generation_engine

__all__ = ["ray_engine", "ray_generation_engine"]
