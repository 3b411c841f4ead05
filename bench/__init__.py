"""The measurements that the docs quote: `make bench` and `make bench-others`."""
