"""Parts for long inputs, each with its source: kinds of self-attention (model.attention), and a recurrent decoder.

restricted   each token attends to its neighbours (section 4 of the paper)
sparse       neighbours, and one token of every few, which all later or all other tokens see
linear       softmax replaced by a product of feature maps, so that sums stand in for the scores
relative     scores that depend on the distance between tokens (Transformer-XL)
recurrence   a target in segments, which attend to what was kept of those before (Transformer-XL; model.architecture)

All but `relative` take time and memory that are linear in the length of a sequence, or nearly so (sparse): the scores
of all pairs of tokens are never computed. Encoder-decoder attention remains that of the paper.
"""

from transformer.variants.long import linear, recurrence, relative, restricted, sparse

__all__ = ["linear", "recurrence", "relative", "restricted", "sparse"]
