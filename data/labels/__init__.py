"""Labels of texts and of their words: the data of classification and tagging."""
