"""How a leaf is seen as matrices, and which parts of them are split."""
