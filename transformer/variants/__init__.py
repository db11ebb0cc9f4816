"""What came after the paper. Each file names its source; nothing here is used unless a setting asks for it."""
