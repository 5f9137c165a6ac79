"""`instructor`: objects of pydantic, by JSON schema and by tools."""

import sys

import instructor
import openai
from pydantic import BaseModel, Field

URL, MODEL = sys.argv[1:3]


class Animal(BaseModel):
    """An animal."""

    name: str = Field(max_length=16)
    legs: int = Field(ge=0, le=99)


for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
    client = instructor.from_openai(
        openai.OpenAI(base_url=f"{URL}/v1", api_key="sk-any", max_retries=0), mode=mode
    )
    animal = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell a story about a dog."}],
        response_model=Animal,
        max_tokens=200,
        temperature=0,
        max_retries=0,
    )
    assert isinstance(animal, Animal)
