"""One SGD step of CBOW, once for each way to run it."""
