"""The engine `openai`: any program or URL that speaks OpenAI's JSON (`/v1/completions`)."""
