"""What pyproject.toml cannot say: the packages that are found, and the folder `recipes` as one more."""

from setuptools import find_namespace_packages, setup

setup(packages=[*find_namespace_packages(include=["codecdiff*"]), "codecdiff.recipes"])
