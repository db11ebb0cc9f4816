"""Fused GPU kernels for what the paper's modules compute, used where they run. Not in the paper.

They are written in Pallas and compiled by Triton. The plain modules remain the definition: each kernel's file has a
function that says whether the program being traced can use it, and tests/transformer/test_kernels.py holds it to the
values and gradients of the plain operations. `model.kernels = False` turns all of them off. The kernels have gradients,
but no derivatives in forward mode and none of second order: for these, turn them off.
"""
