"""Generated from protos/inference_service/v1 by `make protos`."""
