"""Memory and GPUs: what models claim, and which of them make room."""
