"""Problems that several papers are measured on: data that are drawn, and training."""
