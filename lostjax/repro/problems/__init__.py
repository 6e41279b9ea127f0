"""Problems that papers' claims are measured on: data that are drawn, and training."""
