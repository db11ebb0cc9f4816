"""The paper's tables: their rows trained and scored, their cells rendered from records."""
