"""Treebanks, and their trees as sequences: the data of the paper's section 6.3, English constituency parsing."""
