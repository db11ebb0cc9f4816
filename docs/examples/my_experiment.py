"""A preset of one's own: base at a size for a laptop, on the embedded corpus."""

from dataclasses import replace

from experiments import EXPERIMENTS, find

small = find("demo")
EXPERIMENTS["narrow"] = replace(small, name="narrow", model=replace(small.model, d_model=64, d_k=16, d_v=16))
