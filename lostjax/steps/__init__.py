"""One step of learning as a paper prescribes it, as a pure function."""
