"""The key of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The key of a run: the id of its model, and the lowest number that was free.

    The key names all that a run holds: claims, port, container, labels, what is to be removed. As
    text it is the id alone for number 1, and `<id>.R2` for number 2; ids have no capital letters,
    so no id is the text of another key.
    """

    model_id: str
    number: int = 1

    def __str__(self) -> str:
        return self.model_id if self.number == 1 else f"{self.model_id}.R{self.number}"
