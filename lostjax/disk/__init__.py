"""Files that a crash cannot hurt: whole or absent, hashed, locked, appended."""
