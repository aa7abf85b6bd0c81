"""Encoding on a Ray cluster for codecdiff."""

from codecdiff_ray.engine import ray_engine

__all__ = ["ray_engine"]
