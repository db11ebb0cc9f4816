"""What came after the paper. Each module names its source; none of them is used unless a setting asks for it.

classifier   the encoder with a head that labels a text, or each of its tokens
modern       what is usual today: rotary positions, RMSNorm, gated networks, Muon and others
long         self-attention for long inputs: restricted, sparse, linear, relative; a recurrent decoder
mask_predict all tokens of a translation at once, refined in a few iterations
finetuning   frozen parameters, low-rank adaptation
decoding     ways to decode besides beam search: rules, constraints, sampling, ensembles, drafts, trees
"""
