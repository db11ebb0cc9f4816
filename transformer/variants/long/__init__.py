"""Self-attention for long inputs. Each module is a part of its own, with its source; `model.attention` selects one.

restricted   each token attends to its neighbours (section 4 of the paper)
sparse       neighbours, and one token of every few, which all later or all other tokens see
linear       softmax replaced by a product of feature maps, so that sums stand in for the scores
relative     scores that depend on the distance between tokens (Transformer-XL)
recurrence   long texts in segments that attend to the segments before them (Transformer-XL)

The first three take time and memory that are linear in the length of a sequence, or nearly so: the scores of all pairs
of tokens are never computed. Encoder-decoder attention remains that of the paper.
"""

from transformer.variants.long import linear, relative, restricted, sparse

__all__ = ["linear", "relative", "restricted", "sparse"]
