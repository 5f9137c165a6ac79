"""The recipe of story-mini, the small language model that the package carries."""
