"""`python -m inference_service`."""

from inference_service.cli import main

main()
