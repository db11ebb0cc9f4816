"""What came after the paper. Each module names its source; none of them is used unless a setting asks for it.

classifier   the encoder with a head that labels a text, or each of its tokens
long         self-attention for long inputs: restricted, sparse, linear, relative; a recurrent decoder
speculative  greedy search in fewer steps, with the draft of a smaller model
mask_predict all tokens of a translation at once, refined in a few iterations
finetuning   frozen parameters, low-rank adaptation
rules        what an output may contain: a minimum length, no repeated n-grams, no <unk>, a forced prefix
sampling     translations drawn at random, with a temperature, top-k and top-p
constraints  beam search for outputs that contain given phrases
ensemble     several models that translate as one
alignment    the source token that attention points at
ways         the search that the settings ask for
"""
