"""The service as its clients meet it: real sockets, one test a case."""
