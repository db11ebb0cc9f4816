"""Classification and tagging: how labels are scored, and what they are compared with."""
