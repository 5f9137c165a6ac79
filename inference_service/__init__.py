"""Any language model behind one gRPC service, started on demand."""

__version__ = "0.1.0"
