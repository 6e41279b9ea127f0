"""Log a run's numbers: JSON lines, TensorBoard, Weights & Biases, terminal."""
