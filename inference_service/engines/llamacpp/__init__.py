"""The engine `llamacpp`: llama.cpp, as `inference_service.worker` serves it."""
