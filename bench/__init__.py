"""The measurements that the README quotes: `make bench` and `make bench-others`."""
