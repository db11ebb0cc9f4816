"""A custom preset: a narrower version of `demo`, on the generated corpus."""

from dataclasses import replace

from experiments import EXPERIMENTS, find

small = find("demo")
EXPERIMENTS["narrow"] = replace(small, name="narrow", model=replace(small.model, d_model=64, d_k=16, d_v=16))
