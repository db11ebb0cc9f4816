"""Ways to decode besides the paper's beam search, each with its source.

rules        what an output may contain: a minimum length, no repeated n-grams, no <unk>, a forced prefix
sampling     translations drawn at random, with a temperature, top-k and top-p
constraints  beam search for outputs that contain given phrases
ensemble     several models that translate as one
speculative  greedy search in fewer steps, with the draft of a smaller model
trees        only well-formed trees over the words of the sentence
alignment    the source token that attention points at
ways         the search that the settings ask for
"""
