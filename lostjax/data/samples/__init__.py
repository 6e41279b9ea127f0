"""Small real data sets as arrays: one file a kind of data."""
